/* safe_reload as one static file: this program is its own interpreter, and all modules are in it (frozen.h).
 *
 * It needs no file at run time: no standard library, no locale, no /proc.
 */
#include "../inherited.h"
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sys/auxv.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "frozen.h"

PyMODINIT_FUNC PyInit__prctl(void);

/* ---- _libc: the functions that entrypoint/lean/libc.py calls, where a static program has no symbols to look up ------
 *
 * Each returns an int; a negative one means that errno() has the reason. */

static int last_error;

static PyObject *result(int value)
{
    if (value < 0)
        last_error = errno;
    return PyLong_FromLong(value);
}

static PyObject *libc_inotify_init1(PyObject *Py_UNUSED(module), PyObject *args)
{
    int flags;
    return PyArg_ParseTuple(args, "i", &flags) ? result(inotify_init1(flags)) : NULL;
}

static PyObject *libc_inotify_add_watch(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    const char *path;
    unsigned mask;
    return PyArg_ParseTuple(args, "iyI", &fd, &path, &mask) ? result(inotify_add_watch(fd, path, mask)) : NULL;
}

static PyObject *libc_inotify_rm_watch(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, watch;
    return PyArg_ParseTuple(args, "ii", &fd, &watch) ? result(inotify_rm_watch(fd, watch)) : NULL;
}

static PyObject *libc_signalfd(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, flags;
    const char *mask;
    Py_ssize_t size;
    sigset_t set;
    if (!PyArg_ParseTuple(args, "iy#i", &fd, &mask, &size, &flags))
        return NULL;
    memset(&set, 0, sizeof set);
    memcpy(&set, mask, (size_t)size < sizeof set ? (size_t)size : sizeof set);
    return result(signalfd(fd, &set, flags));
}

static PyObject *libc_connect(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    const char *address;
    Py_ssize_t size;
    socklen_t length;
    if (!PyArg_ParseTuple(args, "iy#I", &fd, &address, &size, &length))
        return NULL;
    return result(connect(fd, (const struct sockaddr *)address, length < size ? length : (socklen_t)size));
}

static PyObject *libc_ptrace(PyObject *Py_UNUSED(module), PyObject *args)
{
    int request, pid, address, data;
    if (!PyArg_ParseTuple(args, "iiii", &request, &pid, &address, &data))
        return NULL;
    return result((int)ptrace(request, pid, (void *)(long)address, (void *)(long)data));
}

/* musl gives memory back by itself. What else can be given back is the bytecode: the modules have been made from it, and
 * it is read from the file again for one that is imported later. That is 1.3 MiB of resident memory. */
static PyObject *libc_malloc_trim(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(padding))
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)bytecode, end = begin + sizeof bytecode;
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    return result(madvise((void *)begin, end - begin, MADV_DONTNEED));
}

static PyObject *libc_errno(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyLong_FromLong(last_error);
}

static PyMethodDef functions[] = {
    {"inotify_init1", libc_inotify_init1, METH_VARARGS, NULL},
    {"inotify_add_watch", libc_inotify_add_watch, METH_VARARGS, NULL},
    {"inotify_rm_watch", libc_inotify_rm_watch, METH_VARARGS, NULL},
    {"signalfd", libc_signalfd, METH_VARARGS, NULL},
    {"connect", libc_connect, METH_VARARGS, NULL},
    {"ptrace", libc_ptrace, METH_VARARGS, NULL},
    {"malloc_trim", libc_malloc_trim, METH_O, NULL},
    {"errno", libc_errno, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef libc = {PyModuleDef_HEAD_INIT, .m_name = "_libc", .m_size = -1, .m_methods = functions};

static PyObject *PyInit__libc(void)
{
    return PyModule_Create(&libc);
}

/* ---- signals ----------------------------------------------------------------------------------------------------------
 *
 * musl keeps 34 for itself, for programs with threads: it hides 32 to 34 in these functions, and unblocks 33 and 34 when
 * the first handler is set. For programs of glibc 34 is SIGRTMIN, and has to be blocked, handled and forwarded like any
 * other. So these functions are ours: they only hide 32 and 33, as glibc does. */

static uint64_t bits_of(const sigset_t *set)
{
    uint64_t bits;
    memcpy(&bits, set, sizeof bits);
    return bits;
}

static void set_bits(sigset_t *set, uint64_t bits)
{
    memset(set, 0, sizeof *set);
    memcpy(set, &bits, sizeof bits);
}

static int is_hidden(int signum)
{
    if (signum >= 1 && signum < _NSIG && !(HIDDEN & BIT(signum)))
        return 0;
    errno = EINVAL;
    return 1;
}

int sigfillset(sigset_t *set)
{
    set_bits(set, ~HIDDEN);
    return 0;
}

int sigaddset(sigset_t *set, int signum)
{
    if (is_hidden(signum))
        return -1;
    set_bits(set, bits_of(set) | BIT(signum));
    return 0;
}

int sigdelset(sigset_t *set, int signum)
{
    if (is_hidden(signum))
        return -1;
    set_bits(set, bits_of(set) & ~BIT(signum));
    return 0;
}

int pthread_sigmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
    if (syscall(SYS_rt_sigprocmask, how, set, old, sizeof(uint64_t)))
        return errno;
    if (old)
        set_bits(old, bits_of(old) & ~HIDDEN);
    return 0;
}

/* The kernel's struct sigaction; musl has the function that ends a handler. */
struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};
#define SA_RESTORER 0x04000000
void __restore_rt(void);

int sigaction(int signum, const struct sigaction *restrict new, struct sigaction *restrict old)
{
    struct kernel_sigaction to = {0}, from = {0};
    if (is_hidden(signum))
        return -1;
    if (new)
        to = (struct kernel_sigaction){new->sa_handler, (unsigned)new->sa_flags | SA_RESTORER, __restore_rt, bits_of(&new->sa_mask)};
    if (syscall(SYS_rt_sigaction, signum, new ? &to : NULL, old ? &from : NULL, sizeof(uint64_t)))
        return -1;
    if (old) {
        memset(old, 0, sizeof *old);
        old->sa_handler = from.handler;
        old->sa_flags = (int)from.flags & ~SA_RESTORER;
        set_bits(&old->sa_mask, from.mask & ~HIDDEN);
    }
    return 0;
}

/* The number that SIGRTMIN means: `-p SIGRTMIN` is the same signal in every form of safe_reload. */
int __libc_current_sigrtmin(void)
{
    return 34;
}

/* In place of musl's, which has other texts: "Address in use" for "Address already in use". */
char *strerror(int error)
{
    size_t known = sizeof error_texts / sizeof *error_texts;
    return (char *)(error >= 0 && (size_t)error < known ? error_texts[error] : "Unknown error");
}

/* ---- the interpreter ----------------------------------------------------------------------------------------------- */

extern const struct _frozen *_PyImport_FrozenBootstrap;

/* In place of CPython's, which looks for its standard library in the file system: it costs 2 ms, and there is none. */
PyStatus _PyConfig_InitPathConfig(PyConfig *Py_UNUSED(config), int Py_UNUSED(compute_path_config))
{
    return PyStatus_Ok();
}

/* Memory for objects, as the interpreter takes it itself. A start fills this many arenas of 1 MiB, and so it gets their
 * pages with them: one by one, each page costs a fault, together 1 ms. */
#define FILLED_BY_THE_START 3

static void *arena_alloc(void *taken, size_t size)
{
    int populate = *(int *)taken < FILLED_BY_THE_START ? MAP_POPULATE : 0;
    void *arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | populate, -1, 0);
    if (arena == MAP_FAILED)
        return NULL;
    ++*(int *)taken;
    return arena;
}

static void arena_free(void *Py_UNUSED(taken), void *arena, size_t size)
{
    munmap(arena, size);
}

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

/* Before the constructors of libraries: libcap's asks the kernel for a while. */
__attribute__((constructor(101))) static void begin(void)
{
    tell_what_is_inherited();
}

int main(int argc, char **argv)
{
    /* An upgrade executes argv[0] again. Where that has no folder, the kernel knows which file it was (getauxval(3)). */
    const char *file = (const char *)getauxval(AT_EXECFN);
    if (argc > 0 && !strchr(argv[0], '/') && file && *file == '/' && strncmp(file, "/dev/fd/", 8))
        argv[0] = (char *)file;

    static int taken;
    PyObjectArenaAllocator arenas = {&taken, arena_alloc, arena_free};
    PyObject_SetArenaAllocator(&arenas);

    /* Its own modules for imports are of no use: what is needed of them is in ours, and all else would be imported at each
     * start. That takes 1 ms less. */
    static const struct _frozen none[] = {{NULL, NULL, 0, 0}};
    _PyImport_FrozenBootstrap = none;
    PyImport_FrozenModules = frozen;
    if (PyImport_AppendInittab("_prctl", PyInit__prctl) || PyImport_AppendInittab("_libc", PyInit__libc))
        fail("malloc");

    /* Arguments and variables are the same bytes again in the end, whatever the locale makes of them. */
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    check(Py_PreInitialize(&before));

    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 1; /* without SIGPIPE ignored, a closed stderr would end PID 1 */
    config.site_import = 0;
    config.write_bytecode = 0;
    config.optimization_level = 2; /* as the modules were compiled */
    config.module_search_paths_set = 1;
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    check(PyConfig_SetBytesString(&config, &config.executable, argc > 0 ? argv[0] : ""));
    wchar_t **folders[] = {&config.prefix, &config.exec_prefix, &config.base_prefix, &config.base_exec_prefix};
    for (size_t one = 0; one < sizeof folders / sizeof *folders; one++)
        check(PyConfig_SetString(&config, folders[one], L""));
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);

    if (PyImport_ImportFrozenModule("__main__") < 0)
        PyErr_Print(); /* exits for SystemExit */
    return Py_FinalizeEx() < 0 ? 120 : 1;
}
