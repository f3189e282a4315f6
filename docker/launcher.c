/* Installed as /usr/local/bin/safe_reload: starts Python in this process, and changes nothing else.
 * With -DBESIDE it is a wheel's: it starts the Python and the file of the prefix in which it is installed.
 *
 * What Python could not do itself, or not undo, is done here and told in SAFE_RELOAD_INHERITED:
 *     BLOCKED:IGNORED:STDIN,STDOUT,STDERR[:LC_CTYPE]
 * two masks as in /proc/self/status, the numbers that the three descriptors have now, and what LC_CTYPE was, if set.
 * - The kernel drops a signal for PID 1 that is neither handled nor blocked. So all are blocked, before anything else.
 * - CPython ignores SIGPIPE and SIGXFSZ for itself.
 * - CPython sets LC_CTYPE where the locale is C (PEP 538).
 * - CPython refuses to run where one of the three is a folder. It gets another number.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* -S leaves out site.py, 2 to 6 ms of a container's start, and with it the search path of Debian's packages. */
/* utf8: arguments and variables are the same bytes again in the end, whatever the locale makes of them. */
/* The file has the name that `ps` shows and `pgrep -f` looks for. */
#ifdef BESIDE
/* With site.py: only that knows where a virtual environment has its packages. */
#define COMMAND python(), "-I", "-X", "utf8", in_prefix("lib/safe_reload")
#endif
#ifndef COMMAND
#define COMMAND "/usr/bin/python3", "-I", "-S", "-X", "utf8", "/usr/local/lib/safe_reload"
#endif

#define BIT(signum) (UINT64_C(1) << ((signum) - 1))
/* But for the C library's own two, 32 and 33: Python has no way to unblock them again. */
#define BLOCKABLE ~(BIT(32) | BIT(33))

static void fail(const char *what)
{
    int error = errno;
    dprintf(STDERR_FILENO, "[FATAL safe_reload (%d)] %s failed: %s\n", (int)getpid(), what, strerror(error));
    _exit(error == ENOENT ? 127 : error == EACCES ? 126 : 1); /* as tini's */
}

#ifdef BESIDE
/* PREFIX/NAME, where this program is PREFIX/bin/safe_reload, without symbolic links. */
static char *in_prefix(const char *name)
{
    char *self = realpath((const char *)getauxval(AT_EXECFN), NULL), *path;
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
#endif

/* Block all signals, move folders away, and put what was there before into the environment. */
static void record_inherited(void)
{
    /* System calls: the library's functions hide the signals that it uses itself. */
    uint64_t all = BLOCKABLE, blocked = 0, ignored = 0;
    if (syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &blocked, sizeof all))
        fail("sigprocmask");
    for (int signum = 1; signum <= 64; signum++) {
        uintptr_t action[16]; /* the kernel's struct sigaction: the handler comes first */
        if (syscall(SYS_rt_sigaction, signum, NULL, action, sizeof all) == 0 && action[0] == (uintptr_t)SIG_IGN)
            ignored |= BIT(signum);
    }

    int now[3];
    for (int standard = 0; standard < 3; standard++) {
        struct stat file;
        now[standard] = standard;
        if (fstat(standard, &file) || !S_ISDIR(file.st_mode))
            continue;
        now[standard] = fcntl(standard, F_DUPFD, 3);
        if (now[standard] < 0)
            fail("dup");
        close(standard);
    }

    const char *locale = getenv("LC_CTYPE");
    char *note;
    if (asprintf(&note, "SAFE_RELOAD_INHERITED=%016llx:%016llx:%d,%d,%d%s%s", (unsigned long long)blocked,
                 (unsigned long long)ignored, now[0], now[1], now[2], locale ? ":" : "", locale ? locale : "") < 0 ||
        putenv(note))
        fail("malloc");
}

int main(int argc, char **argv)
{
    record_inherited();

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
