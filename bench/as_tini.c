/* as_tini PROGRAM ARGS: runs another init with tini's -s and -g put into its own words, so that the suite asks it about
   what it does and not about how its options are called. Nothing that a program inherits is changed on the way.

   -s (be a subreaper) is a property of the process that survives exec. dumb-init signals the group in any case: with
   its -c it would not, but then the program would have no group of its own. Both can be asked for by a variable. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char **words = calloc((size_t)argc + 3, sizeof *words);
	int n = 0, i = 2, dumb;

	if (!words || argc < 2)
		return 1;
	dumb = strstr(argv[1], "dumb-init") != NULL;
	words[n++] = argv[1];
	if (getenv("TINI_SUBREAPER"))
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (getenv("TINI_KILL_PROCESS_GROUP") && !dumb)
		words[n++] = "-g";
	for (; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "-s"))
			prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
		else if (dumb && !strcmp(argv[i], "-g"))
			continue;
		else if (!strcmp(argv[i], "-e") || !strcmp(argv[i], "-p")) { /* these have a value */
			words[n++] = argv[i];
			if (i + 1 < argc)
				words[n++] = argv[++i];
		} else
			words[n++] = argv[i];
	while (i < argc)
		words[n++] = argv[i++];
	execvp(words[0], words);
	perror(words[0]);
	return 127;
}
