/* _mmapcache.c - the module: what it is made of,
 * and its life in an interpreter (module.h has the map).
 *
 * Multi-phase initialisation, all state in struct mc_module, heap types only: each interpreter,
 * with a lock of its own or not, has a module of its own.
 *
 * A free-threaded interpreter runs without its lock only when all its modules say that they need
 * none. This one is written so, and says it when built with MC_NO_GIL (setup.py): no such
 * interpreter has run it yet. Else the interpreter takes its lock while this module is loaded.
 */
#include "binding/module.h"

#include "binding/arguments.h"
#include "binding/batch_type.h"
#include "binding/cache_type.h"
#include "binding/collection_map_type.h"
#include "binding/collection_type.h"
#include "binding/collection_views.h"
#include "binding/errors.h"
#include "binding/index_type.h"
#include "binding/replace_type.h"
#include "binding/replies.h"
#include "binding/snapshot_type.h"
#include "binding/writer_type.h"
#include "format.h"
#include "system.h"

static int add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "MAX_KEY_BYTES", MC_KEY_BYTES_MAX) |
           PyModule_AddIntConstant(module, "MAX_DOCUMENT_BYTES", MC_DOCUMENT_MAX) |
           PyModule_AddIntConstant(module, "MAX_NAME_BYTES", MC_NAME_MAX) |
           PyModule_AddIntConstant(module, "MAX_POSITION_BYTES", MC_POSITION_MAX) |
           PyModule_AddIntConstant(module, "MAX_COLLECTIONS", MC_COLLECTIONS_MAX) |
           PyModule_AddIntConstant(module, "MAX_STATE_BYTES", MC_STATE_MAX) |
           PyModule_AddIntConstant(module, "MAX_DEPTH", MC_BSON_DEPTH_MAX) |
           PyModule_AddIntConstant(module, "MIN_SIZE", MC_MAP_MIN) |
           PyModule_AddIntConstant(module, "MAX_SIZE", MC_MAP_MAX) |
           PyModule_AddStringConstant(module, "SYSTEM", mc_system_name);
}

static int add_text(struct mc_module *state)
{
    state->text_pluck = PyUnicode_InternFromString("pluck");
    state->text_raw = PyUnicode_InternFromString("raw");
    state->text_marker = PyUnicode_InternFromString("_type_marker");
    return state->text_pluck == NULL || state->text_raw == NULL || state->text_marker == NULL ? -1
                                                                                              : 0;
}

/* Tells collections.abc what our mappings and views are. */
static int register_types(struct mc_module *state)
{
    const struct {
        const char *abc;
        PyTypeObject *type;
    } pairs[] = {
        {"Mapping", state->cache},
        {"Mapping", state->collection},
        {"Mapping", state->snapshot},
        {"Mapping", state->map},
        {"Mapping", state->index},
        {"KeysView", state->views[MC_KEYS]},
        {"ValuesView", state->views[MC_VALUES]},
        {"ItemsView", state->views[MC_ITEMS]},
    };
    PyObject *abc = PyImport_ImportModule("collections.abc");
    int result = abc == NULL ? -1 : 0;
    for (size_t i = 0; result == 0 && i < sizeof pairs / sizeof pairs[0]; i++) {
        PyObject *cls = PyObject_GetAttrString(abc, pairs[i].abc);
        PyObject *done =
            cls == NULL ? NULL : PyObject_CallMethod(cls, "register", "O", pairs[i].type);
        result = done == NULL ? -1 : 0;
        Py_XDECREF(cls);
        Py_XDECREF(done);
    }
    Py_XDECREF(abc);
    return result;
}

static PyObject *raise_for_documents(PyObject *module, const struct mc_error *error)
{
    return mc_raise(PyModule_GetState(module), error);
}

static int encode_for_documents(PyObject *module, PyObject *object, Py_buffer *view)
{
    return mc_bson_argument(PyModule_GetState(module), object, view);
}

static int module_exec(PyObject *module)
{
    struct mc_module *state = PyModule_GetState(module);
    if (mc_errors_init(module, state) < 0 ||
        mc_document_state_init(module, &state->documents, raise_for_documents,
                               encode_for_documents) < 0 ||
        add_text(state) < 0 || mc_cache_type_init(module, state) < 0 ||
        mc_collection_type_init(module, state) < 0 || mc_snapshot_type_init(module, state) < 0 ||
        mc_views_init(module, state) < 0 || mc_collection_map_init(module, state) < 0 ||
        mc_index_type_init(module, state) < 0 || mc_writer_type_init(module, state) < 0 ||
        mc_batch_type_init(module, state) < 0 || mc_replace_type_init(module, state) < 0 ||
        PyModule_AddFunctions(module, mc_reply_functions) < 0 || add_constants(module) != 0) {
        return -1;
    }
    return register_types(state);
}

/* Every Python object in the state but the documents' part. */
#define FOR_EACH(state, DO)                                                                        \
    do {                                                                                           \
        for (int i = 0; i < MC_ERRORS; i++) {                                                      \
            DO((state)->errors[i]);                                                                \
        }                                                                                          \
        for (int i = 0; i < MC_MAPPING_VIEWS; i++) {                                               \
            DO((state)->views[i]);                                                                 \
        }                                                                                          \
        DO((state)->cache);                                                                        \
        DO((state)->collection);                                                                   \
        DO((state)->snapshot);                                                                     \
        DO((state)->iterator);                                                                     \
        DO((state)->map);                                                                          \
        DO((state)->map_iterator);                                                                 \
        DO((state)->built);                                                                        \
        DO((state)->index);                                                                        \
        DO((state)->writer);                                                                       \
        DO((state)->batch);                                                                        \
        DO((state)->replace);                                                                      \
        DO((state)->text_pluck);                                                                   \
        DO((state)->text_raw);                                                                     \
        DO((state)->text_marker);                                                                  \
    } while (0)

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct mc_module *state = PyModule_GetState(module);
    FOR_EACH(state, Py_VISIT);
    return mc_document_state_traverse(&state->documents, visit, arg);
}

static int module_clear(PyObject *module)
{
    struct mc_module *state = PyModule_GetState(module);
    FOR_EACH(state, Py_CLEAR);
    return mc_document_state_clear(&state->documents);
}

static void module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if MC_FREE_THREADED && defined(MC_NO_GIL)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The C half of mmapcache; import mmapcache instead.");

static PyMethodDef module_methods[] = {
    {"open", (PyCFunction)(void (*)(void))mc_open, METH_VARARGS | METH_KEYWORDS, mc_open_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,         .m_name = "mmapcache._mmapcache",
    .m_doc = module_doc,           .m_size = sizeof(struct mc_module),
    .m_methods = module_methods,   .m_slots = module_slots,
    .m_traverse = module_traverse, .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__mmapcache(void)
{
    return PyModuleDef_Init(&module_def);
}
