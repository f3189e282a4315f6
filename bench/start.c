/* The CPU time from the exec of safe_reload to the exec of haproxy, in microseconds; built as `start` and as `haproxy`.
 *
 *     start RUNS PROGRAM ARGUMENT...
 *
 * runs the program again and again. It is to start the `haproxy` beside this file, which prints what its parent, its
 * parent's other children and itself have used, and exits. Each run prints two lines: "exec" with that time, and "end"
 * with that of all of them from the beginning to their end. It is static: an image may have no C library. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A clock of the process: precise to the nanosecond, where /proc/PID/stat has ticks of 10 ms. */
static long microseconds(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &used))
        return 0;
    return used.tv_sec * 1000000 + used.tv_nsec / 1000;
}

static pid_t parent_of(pid_t pid)
{
    char name[32], text[512];
    snprintf(name, sizeof name, "/proc/%d/stat", (int)pid);
    int file = open(name, O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0)
        return -1;
    text[length] = 0;
    char *end = strrchr(text, ')'); /* the name before may have any character in it */
    int parent = -1;
    return end && sscanf(end + 1, " %*c %d", &parent) == 1 ? parent : -1;
}

static int as_haproxy(void)
{
    long used = microseconds(getppid()) + microseconds(getpid());
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name);
        if (pid > 0 && pid != getpid() && parent_of(pid) == getppid())
            used += microseconds(pid);
    }
    const char *before = getenv("START_USED"); /* by `start` itself, before its exec */
    printf("exec %ld\n", used - (before ? atol(before) : 0));
    return 0;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    if (strcmp(slash ? slash + 1 : argv[0], "haproxy") == 0)
        return as_haproxy();
    if (argc < 3)
        return 2;
    for (int run = atoi(argv[1]); run > 0; run--) {
        pid_t pid = fork();
        if (pid == 0) {
            dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
            char used[32];
            snprintf(used, sizeof used, "%ld", microseconds(getpid()));
            setenv("START_USED", used, 1);
            execv(argv[2], argv + 2);
            _exit(127);
        }
        int status;
        struct rusage usage;
        if (pid < 0 || wait4(pid, &status, 0, &usage) < 0)
            return 1;
        printf("end %ld\n", (long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
                                usage.ru_stime.tv_usec);
        fflush(stdout);
    }
}
