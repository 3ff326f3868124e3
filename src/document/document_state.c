/* document_state.c - what the document types keep per interpreter: made, visited, cleared. */
#include "array.h"
#include "classes.h"
#include "document_object.h"
#include "document_type.h"
#include "document_views.h"
#include "json.h"
#include "object_id.h"
#include "options.h"

static int make_types(PyObject *module, struct mc_document_state *state)
{
    struct {
        PyType_Spec *spec;
        PyTypeObject **place;
    } types[] = {
        {&mc_document_spec, &state->document_type},
        {&mc_array_spec, &state->array_type},
        {&mc_iterator_spec, &state->iterator_type},
        {&mc_object_id_spec, &state->object_id_type},
        {&mc_view_specs[MC_KEYS], &state->view_types[MC_KEYS]},
        {&mc_view_specs[MC_VALUES], &state->view_types[MC_VALUES]},
        {&mc_view_specs[MC_ITEMS], &state->view_types[MC_ITEMS]},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        *types[i].place = mc_type_new(module, types[i].spec);
        if (*types[i].place == NULL) {
            return -1;
        }
    }
    if (PyModule_AddObjectRef(module, "Document", (PyObject *)state->document_type) < 0 ||
        PyModule_AddObjectRef(module, "Array", (PyObject *)state->array_type) < 0 ||
        PyModule_AddObjectRef(module, "object_id", (PyObject *)state->object_id_type) < 0 ||
        PyModule_AddFunctions(module, mc_json_functions) < 0) {
        return -1;
    }
    return 0;
}

/* Tells collections.abc what the types are. */
static int register_types(struct mc_document_state *state)
{
    const struct {
        const char *name;
        PyTypeObject *type;
    } abstract[] = {
        {"Mapping", state->document_type},          {"Sequence", state->array_type},
        {"KeysView", state->view_types[MC_KEYS]},   {"ValuesView", state->view_types[MC_VALUES]},
        {"ItemsView", state->view_types[MC_ITEMS]},
    };
    PyObject *module = PyImport_ImportModule("collections.abc");
    bool done = module != NULL;
    for (size_t i = 0; i < sizeof abstract / sizeof abstract[0] && done; i++) {
        PyObject *cls = mc_attribute(module, abstract[i].name), *result = NULL;
        if (cls != NULL) {
            result = mc_call_method(cls, "register", (PyObject *)abstract[i].type);
        }
        if (i == 0) {
            state->mapping_abc = Py_XNewRef(cls);
        }
        done = result != NULL;
        Py_XDECREF(cls);
        Py_XDECREF(result);
    }
    Py_XDECREF(module);
    return done ? 0 : -1;
}

/* The class attribute by which PyMongo's encoder knows what to write of an object. */
static int mark(struct mc_document_state *state, PyTypeObject *type, long number)
{
    PyObject *marker = PyLong_FromLong(number);
    int result = -1;
    if (marker != NULL) {
        result = PyDict_SetItem(type->tp_dict, state->texts[MC_TEXT_MARKER], marker);
        PyType_Modified(type);
        Py_DECREF(marker);
    }
    return result;
}

/* In an interpreter with a lock of its own Python 3.12 refuses datetime's C half only once it has
 * run its initialisation, which corrupts memory from the second such interpreter on unless the main
 * one has it already. So there nobody may try: datetime does without, as it does when refused. */
static int keep_c_datetime_out(void)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
    PyObject *modules = PyImport_GetModuleDict();
    if (_PyInterpreterState_HasFeature(PyInterpreterState_Get(),
                                       Py_RTFLAGS_MULTI_INTERP_EXTENSIONS) &&
        PyDict_GetItemString(modules, "_datetime") == NULL) {
        return PyDict_SetItemString(modules, "_datetime", Py_None); /* its import will fail */
    }
#endif
    return 0;
}

int mc_document_state_init(PyObject *module, struct mc_document_state *state,
                           mc_raise_function raise, mc_encode_function encode)
{
    PyObject *word;
    *state = (struct mc_document_state){.module = module, .raise = raise, .encode = encode};
    if (mc_texts_init(state) < 0) {
        return -1;
    }
    for (int i = 0; i < 4; i++) { /* as hard to guess as Python's own hash of strings */
        word = PyUnicode_FromFormat("mmapcache field names %d", i);
        if (word == NULL) {
            return -1;
        }
        state->secret[i] = (uint64_t)PyObject_Hash(word);
        Py_DECREF(word);
    }
    state->options = mc_options_new(state);
    if (state->options == NULL || keep_c_datetime_out() < 0) {
        return -1;
    }
    return make_types(module, state) < 0 ||
                   mark(state, state->document_type, MC_MARKER_RAW) < 0 /* its `raw` bytes */ ||
                   mark(state, state->object_id_type, MC_MARKER_OBJECTID) < 0 /* its `binary` */ ||
                   register_types(state) < 0
               ? -1
               : 0;
}

int mc_document_state_traverse(struct mc_document_state *state, visitproc visit, void *arg)
{
    Py_VISIT(state->document_type);
    Py_VISIT(state->array_type);
    Py_VISIT(state->iterator_type);
    Py_VISIT(state->object_id_type);
    for (int i = 0; i < 3; i++) {
        Py_VISIT(state->view_types[i]);
    }
    Py_VISIT(state->mapping_abc);
    for (int i = 0; i < MC_CLASSES; i++) {
        Py_VISIT(state->classes[i]);
    }
    Py_VISIT(state->encode_options);
    Py_VISIT(state->uuid_unknown);
    return 0;
}

int mc_document_state_clear(struct mc_document_state *state)
{
    Py_CLEAR(state->document_type);
    Py_CLEAR(state->array_type);
    Py_CLEAR(state->iterator_type);
    Py_CLEAR(state->object_id_type);
    for (int i = 0; i < 3; i++) {
        Py_CLEAR(state->view_types[i]);
    }
    Py_CLEAR(state->mapping_abc);
    for (int i = 0; i < MC_CLASSES; i++) {
        Py_CLEAR(state->classes[i]);
    }
    Py_CLEAR(state->encode_options);
    Py_CLEAR(state->uuid_unknown);
    for (int i = 0; i < MC_TEXTS; i++) {
        Py_CLEAR(state->texts[i]);
    }
    for (int i = 0; i < MC_NAME_CACHE; i++) {
        Py_CLEAR(state->names[i]);
    }
    while (state->free_nested != NULL) {
        struct mc_document *view = state->free_nested;
        state->free_nested = (struct mc_document *)(void *)view->memo;
        PyObject_Free(view);
    }
    state->free_nested_count = 0;
    if (state->options != NULL) {
        mc_options_release(state->options);
        state->options = NULL;
    }
    return 0;
}
