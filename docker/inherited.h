/* What a program that runs Python in PID 1 must do before Python begins, because Python could not do it, or not undo it.
 *
 * The result is told in SAFE_RELOAD_INHERITED:
 *     BLOCKED:IGNORED:STDIN,STDOUT,STDERR[:LC_CTYPE]
 * two masks as in /proc/self/status, the numbers that the three descriptors have now, and what LC_CTYPE was, if set.
 * - The kernel drops a signal for PID 1 that is neither handled nor blocked. So all are blocked, before anything else.
 * - CPython ignores SIGPIPE and SIGXFSZ for itself.
 * - CPython sets LC_CTYPE where the locale is C (PEP 538).
 * - CPython refuses to run where one of the three is a folder. It gets another number.
 * An upgrade executes this again, and passes on what the first life has told: what is found now is safe_reload's own.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(signum) (UINT64_C(1) << ((signum) - 1))
/* The C library's own two, which are not blocked: Python has no way to unblock them again. */
#define HIDDEN (BIT(32) | BIT(33))

static void fail(const char *what)
{
    int error = errno;
    dprintf(STDERR_FILENO, "[FATAL safe_reload (%d)] %s failed: %s\n", (int)getpid(), what, strerror(error));
    _exit(error == ENOENT ? 127 : error == EACCES ? 126 : 1); /* as tini's */
}

static void tell_what_is_inherited(void)
{
    /* System calls: the library's functions hide the signals that it uses itself. */
    uint64_t all = ~HIDDEN, blocked = 0, ignored = 0;
    if (syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &blocked, sizeof all))
        fail("sigprocmask");
    if (getenv("SAFE_RELOAD_HEIR") && getenv("SAFE_RELOAD_INHERITED"))
        return;
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
