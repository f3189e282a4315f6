/* Installed as /usr/local/bin/safe_reload: starts Python in this process, and changes nothing else (inherited.h).
 * With -DBESIDE it is a wheel's: it starts the Python and the file of the prefix in which it is installed.
 */
#include "inherited.h"
#include <sys/auxv.h>

/* utf8: arguments and variables are the same bytes again in the end, whatever the locale makes of them. */
/* The file has the name that `ps` shows and `pgrep -f` looks for. */
#if defined BESIDE
/* With site.py: only that knows where a virtual environment has its packages. */
#define COMMAND python(), "-I", "-X", "utf8", in_prefix("lib/safe_reload")

/* PREFIX/NAME, where this program is PREFIX/bin/safe_reload, without symbolic links. */
static char *in_prefix(const char *name)
{
    /* AT_EXECFN is for where there is no /proc: under `#!` it is the script. */
    char *self = realpath("/proc/self/exe", NULL), *path;
    if (!self)
        self = realpath((const char *)getauxval(AT_EXECFN), NULL);
    if (!self)
        fail("realpath");
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
    }
    if (asprintf(&path, "%s/%s", self, name) < 0)
        fail("malloc");
    return path;
}

/* `pip install --user`, and Debian's /usr/local, have no Python of their own: it is the one in PATH. */
static char *python(void)
{
    char *beside = in_prefix("bin/python3");
    return access(beside, X_OK) ? "python3" : beside;
}
#elif !defined COMMAND
/* -S leaves out site.py, 2 to 6 ms of a container's start, and with it the search path of Debian's packages. */
#define COMMAND "/usr/bin/python3", "-I", "-S", "-X", "utf8", "/usr/local/lib/safe_reload"
#endif

int main(int argc, char **argv)
{
    tell_what_is_inherited();

    char *command[] = {COMMAND};
    size_t words = sizeof command / sizeof *command, rest = argc > 1 ? (size_t)argc - 1 : 0;
    char **line = calloc(words + rest + 1, sizeof *line);
    if (!line)
        fail("malloc");
    memcpy(line, command, sizeof command);
    memcpy(line + words, argv + 1, rest * sizeof *line);
    execvp(line[0], line);
    fail(line[0]);
}
