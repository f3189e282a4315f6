/* safe_reload as one static file: this program is its own interpreter, and all modules are in it (frozen.h).
 *
 * It needs no file at run time: no standard library, no locale, no /proc.
 */
#include "../inherited.h"
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sys/auxv.h>
#include <sys/inotify.h>
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
    {"errno", libc_errno, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef libc = {PyModuleDef_HEAD_INIT, .m_name = "_libc", .m_size = -1, .m_methods = functions};

static PyObject *PyInit__libc(void)
{
    return PyModule_Create(&libc);
}

/* ---- signal 34 ----------------------------------------------------------------------------------------------------------
 *
 * It is SIGRTMIN for programs of glibc, and has to be blocked, handled and forwarded like any other. musl keeps it for
 * itself, for programs with threads, and hides it in these functions. Here it only hides 32 and 33, as glibc does. */

#define SIGNAL_34 34
#define HIDDEN (BIT(32) | BIT(33))

int __sigaction(int, const struct sigaction *, struct sigaction *);
int __libc_sigaction(int, const struct sigaction *, struct sigaction *);

static int change(sigset_t *set, int signum, int add)
{
    if (signum < 1 || signum >= _NSIG || HIDDEN & BIT(signum)) {
        errno = EINVAL;
        return -1;
    }
    uint64_t bits;
    memcpy(&bits, set, sizeof bits);
    bits = add ? bits | BIT(signum) : bits & ~BIT(signum);
    memcpy(set, &bits, sizeof bits);
    return 0;
}

int sigaddset(sigset_t *set, int signum)
{
    return change(set, signum, 1);
}

int sigdelset(sigset_t *set, int signum)
{
    return change(set, signum, 0);
}

int sigfillset(sigset_t *set)
{
    uint64_t bits = ~HIDDEN;
    memcpy(set, &bits, sizeof bits);
    return 0;
}

int pthread_sigmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
    if (syscall(SYS_rt_sigprocmask, how, set, old, _NSIG / 8))
        return errno;
    if (old) {
        uint64_t bits;
        memcpy(&bits, old, sizeof bits);
        bits &= ~HIDDEN;
        memcpy(old, &bits, sizeof bits);
    }
    return 0;
}

int sigaction(int signum, const struct sigaction *restrict new, struct sigaction *restrict old)
{
    return signum == SIGNAL_34 ? __libc_sigaction(signum, new, old) : __sigaction(signum, new, old);
}

/* ---- the interpreter ----------------------------------------------------------------------------------------------- */

/* In place of CPython's, which looks for its standard library in the file system: it costs 2 ms, and there is none. */
PyStatus _PyConfig_InitPathConfig(PyConfig *Py_UNUSED(config), int Py_UNUSED(compute_path_config))
{
    return PyStatus_Ok();
}

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

int main(int argc, char **argv)
{
    tell_what_is_inherited();

    /* An upgrade executes argv[0] again. Where that has no folder, the kernel knows which file it was (getauxval(3)). */
    const char *file = (const char *)getauxval(AT_EXECFN);
    if (argc > 0 && !strchr(argv[0], '/') && file && *file == '/')
        argv[0] = (char *)file;

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
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);

    if (PyImport_ImportFrozenModule("__main__") < 0)
        PyErr_Print(); /* exits for SystemExit */
    return Py_FinalizeEx() < 0 ? 120 : 1;
}
