/* hook.c - makes the n-th allocation of a call fail; a Python module that run.py compiles.
 *
 *      PYTHON   what goes through Python's three allocator domains
 *      CORE     malloc, calloc and realloc as called from within one library, the extension: only
 *               when this file is preloaded, so that it stands before the C library
 *
 * Only the thread that asked for it sees failures, and only within the call: run() arms itself
 * right before it and disarms right after, in C, so that the counting has nothing else in it. Free
 * lists are emptied first, as an object out of one is no allocation.
 *
 * Also counts the blocks that are allocated and not freed, of both kinds: a leak is exact.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* first: it asks for _GNU_SOURCE itself */

#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum kind { PYTHON, CORE };

/* Initial-exec, as the model that asks for memory itself would come back to malloc. */
static __thread bool armed __attribute__((tls_model("initial-exec")));
static enum kind armed_kind;
static long long first, last;  /* of the allocations that fail: from first on, before last */
static long long seen, failed; /* allocations within the call */
static long long live[2];      /* blocks, by kind */
static uintptr_t low, high;    /* where the extension's code is */

static bool refuse(enum kind kind)
{
    long long number;
    if (!armed || armed_kind != kind) {
        return false;
    }
    number = seen++;
    failed += number >= first && number < last;
    return number >= first && number < last;
}

/* ---- Python's allocators ---- */

static PyMemAllocatorEx inner[3];

static void *hook_malloc(void *context, size_t size)
{
    PyMemAllocatorEx *next = context;
    void *block = refuse(PYTHON) ? NULL : next->malloc(next->ctx, size);
    live[PYTHON] += block != NULL;
    return block;
}

static void *hook_calloc(void *context, size_t count, size_t size)
{
    PyMemAllocatorEx *next = context;
    void *block = refuse(PYTHON) ? NULL : next->calloc(next->ctx, count, size);
    live[PYTHON] += block != NULL;
    return block;
}

static void *hook_realloc(void *context, void *old, size_t size)
{
    PyMemAllocatorEx *next = context;
    void *block = refuse(PYTHON) ? NULL : next->realloc(next->ctx, old, size);
    live[PYTHON] += block != NULL && old == NULL;
    return block;
}

static void hook_free(void *context, void *block)
{
    PyMemAllocatorEx *next = context;
    live[PYTHON] -= block != NULL;
    next->free(next->ctx, block);
}

static void install(void)
{
    static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM,
                                                   PYMEM_DOMAIN_OBJ};
    for (int i = 0; i < 3; i++) {
        PyMemAllocatorEx outer = {&inner[i], hook_malloc, hook_calloc, hook_realloc, hook_free};
        PyMem_GetAllocator(domains[i], &inner[i]);
        PyMem_SetAllocator(domains[i], &outer);
    }
}

/* ---- the C library's, in front of glibc ---- */

#ifdef PRELOADED
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void __libc_free(void *block);

static bool from_core(const void *caller)
{
    return (uintptr_t)caller - low < high - low;
}

void *malloc(size_t size)
{
    bool core = from_core(__builtin_return_address(0));
    void *block = core && refuse(CORE) ? NULL : __libc_malloc(size);
    live[CORE] += core && block != NULL;
    return block;
}

void *calloc(size_t count, size_t size)
{
    bool core = from_core(__builtin_return_address(0));
    void *block = core && refuse(CORE) ? NULL : __libc_calloc(count, size);
    live[CORE] += core && block != NULL;
    return block;
}

void *realloc(void *old, size_t size)
{
    bool core = from_core(__builtin_return_address(0));
    void *block = core && refuse(CORE) ? NULL : __libc_realloc(old, size);
    live[CORE] += core && block != NULL && old == NULL;
    return block;
}

void free(void *block)
{
    live[CORE] -= from_core(__builtin_return_address(0)) && block != NULL;
    __libc_free(block);
}
#endif

static int note_library(struct dl_phdr_info *info, size_t size, void *name)
{
    (void)size;
    if (strcmp(info->dlpi_name, name) != 0) {
        return 0;
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && (header->p_flags & PF_X) != 0) {
            low = info->dlpi_addr + header->p_vaddr;
            high = low + header->p_memsz;
        }
    }
    return 1;
}

/* ---- for Python ---- */

static PyObject *watch(PyObject *module, PyObject *path)
{
    const char *name = PyUnicode_AsUTF8(path);
    (void)module;
    if (name == NULL) {
        return NULL;
    }
    return PyBool_FromLong(dl_iterate_phdr(note_library, (void *)name));
}

/* The exception as one object, or None; clears it. */
static PyObject *caught(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        Py_RETURN_NONE;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static PyObject *run(PyObject *module, PyObject *args)
{
    PyObject *call, *collect, *emptied, *result;
    int kind;
    long long from, to;
    (void)module;
    if (!PyArg_ParseTuple(args, "iLLOO", &kind, &from, &to, &collect, &call)) {
        return NULL;
    }
    emptied = PyObject_CallNoArgs(collect);
    if (emptied == NULL) {
        return NULL;
    }
    Py_DECREF(emptied);
    armed_kind = kind == CORE ? CORE : PYTHON;
    first = from;
    last = to;
    seen = failed = 0;
    armed = true;
    result = PyObject_CallNoArgs(call);
    armed = false;
    return Py_BuildValue("NNLL", result == NULL ? Py_NewRef(Py_None) : result, caught(), seen,
                         failed);
}

static PyObject *blocks(PyObject *module, PyObject *ignored)
{
    (void)module;
    (void)ignored;
    return PyLong_FromLongLong(live[PYTHON] + live[CORE]);
}

static PyMethodDef methods[] = {
    {"watch", watch, METH_O, "Takes the library of that path as the core; whether it is loaded."},
    {"run", run, METH_VARARGS,
     "run(kind, first, last, collect, call): what call() returned, what it raised, how many "
     "allocations it asked for, how many of them failed."},
    {"blocks", blocks, METH_NOARGS, "Blocks allocated since the import and not freed."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "hook", .m_size = -1,
                                        .m_methods = methods};

PyMODINIT_FUNC PyInit_hook(void)
{
    install();
    return PyModule_Create(&definition);
}
