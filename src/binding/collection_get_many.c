/* collection_get_many.c - Collection: pluck and get_many.
 *
 * get_many works in stages of up to MC_FIND_MANY keys, so that the cache misses of different keys
 * overlap instead of adding up:
 *
 *      convert and hash all   -> ask the front cache -> find the rest in the table, prefetching
 *      -> copy them            -> validate once       -> into the dict
 *
 * Converting and the dict may run Python code (exotic keys); the stages between do not. The reading
 * is held from the first stage to the last: all answers are of one generation.
 */
#include "collection_get_many.h"

#include "arguments.h"
#include "pykey.h"

/* ---- pluck ---- */

enum { SMALL = 512 }; /* bytes of a field that fit the stack */

/* A field's value, found in the map: copied, validated and made a Python object. *status: MC_OK
 * also for an exception, MC_ABSENT, MC_EXPIRED, MC_CORRUPT. */
static PyObject *pluck_from_file(mc_collection_object *self, struct mc_reading *reading,
                                 const struct mc_key *key, const char *path, size_t path_len,
                                 enum mc_status *status)
{
    struct mc_hit hit;
    struct mc_bson_element element;
    uint8_t small[SMALL];
    uint8_t *copy = small;
    PyObject *value = NULL;
    *status = mc_find(&reading->view, mc_collection_table(self)->root, key, &hit);
    if (*status == MC_OK) {
        const uint8_t *document = shm_expose(hit.value);
        *status = mc_field_index_pluck(document, hit.value_len, shm_expose(mc_hit_blocks(&hit)),
                                       hit.blocks, path, path_len, &element);
        if (*status == MC_OK) {
            if (element.value_len > SMALL) {
                copy = PyMem_Malloc(element.value_len);
                if (copy == NULL) {
                    return PyErr_NoMemory();
                }
            }
            mc_copy(copy, hit.value + (element.value - document), element.value_len);
            element.value = copy;
            element.name = (const uint8_t *)""; /* the name in the map is not ours to show */
            element.name_len = 0;
        }
    }
    *status = mc_view_settle_value(&reading->view, &hit, *status);
    if (*status == MC_OK && mc_bson_again(&element) != MC_OK) {
        *status = MC_CORRUPT; /* no loader changes what a valid view refers to: the file is lying */
    }
    if (*status == MC_OK) {
        value = mc_value_from_element(self->options, &element);
    }
    if (copy != small) {
        PyMem_Free(copy);
    }
    return value;
}

/* The document's own pluck, which remembers what it decoded. */
static PyObject *pluck_from_document(mc_collection_object *self, PyObject *document, PyObject *path,
                                     PyObject *fallback)
{
    PyObject *args[] = {document, path, fallback};
    PyObject *value;
    Py_INCREF(document); /* the front cache may let go of it meanwhile */
    value = PyObject_VectorcallMethod(self->reader->module->text_pluck, args, 3, NULL);
    Py_DECREF(document);
    return value;
}

PyObject *mc_collection_pluck(PyObject *self_object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const char *const names[] = {"key", "path", "default"};
    mc_collection_object *self = (mc_collection_object *)self_object;
    PyObject *values[3];
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    unsigned tries = 0;
    Py_ssize_t path_len;
    const char *path;
    enum mc_pykey_result converted;
    if (!mc_arguments("pluck", names, 2, args, nargs, kwnames, values)) {
        return NULL;
    }
    if (!PyUnicode_Check(values[1])) {
        PyErr_Format(PyExc_TypeError, "pluck() takes a path like \"limits.qps\", not %.100s",
                     Py_TYPE(values[1])->tp_name);
        return NULL;
    }
    path = PyUnicode_AsUTF8AndSize(values[1], &path_len);
    converted = path == NULL ? MC_PYKEY_ERROR
                             : mc_pykey_from(self->options, values[0], &key, scratch, NULL);
    if (converted == MC_PYKEY_ERROR) {
        return NULL;
    }
    enum mc_status status;
    PyObject *value;
    do {
        struct mc_reading *reading;
        value = NULL;
        status = mc_collection_begin(self, &reading);
        if (status == MC_OK && converted == MC_PYKEY_NEVER) {
            status = MC_ABSENT;
        } else if (status == MC_OK) {
            struct mc_front_entry *entry;
            key.hash = mc_view_hash(&reading->view, &key);
            entry = mc_collection_ask(self, reading, values[0], &key);
            if (entry != NULL) {
                return entry->document == NULL
                           ? Py_NewRef(values[2])
                           : pluck_from_document(self, entry->document, values[1], values[2]);
            }
            value = pluck_from_file(self, reading, &key, path, (size_t)path_len, &status);
        }
        status = mc_collection_judge(self, status, &tries);
    } while (status == MC_EXPIRED);
    return status == MC_OK ? value : status == MC_ABSENT ? Py_NewRef(values[2]) : NULL;
}

/* ---- get_many ---- */

/* One stage. Keys are compacted: those that the front cache answered or that cannot exist are not
 * in keys, hits and statuses; which[i] says whose they are. */
struct stage {
    PyObject *const *objects; /* of the stage's keys, borrowed from a tuple that the caller holds */
    size_t count;
    PyObject *documents[MC_FIND_MANY]; /* by key: owned, or NULL */
    size_t left;                       /* keys to find in the file */
    uint8_t which[MC_FIND_MANY];
    struct mc_key keys[MC_FIND_MANY];
    struct mc_hit hits[MC_FIND_MANY];
    enum mc_status statuses[MC_FIND_MANY];
    uint8_t (*scratch)[MC_KEY_MAX]; /* MC_FIND_MANY of them, made when a key is not plain */
};

/* Text becomes a key in place and is always hashable. */
static bool is_plain(PyObject *object)
{
    return PyUnicode_CheckExact(object);
}

static void drop_documents(struct stage *stage)
{
    for (size_t i = 0; i < stage->count; i++) {
        Py_CLEAR(stage->documents[i]);
    }
}

/* Canonical keys of the stage's objects: 0, or -1 with an exception. */
static int convert(mc_collection_object *self, struct stage *stage)
{
    stage->left = 0;
    for (size_t i = 0; i < stage->count; i++) {
        PyObject *object = stage->objects[i];
        stage->documents[i] = NULL;
        if (stage->scratch == NULL && !is_plain(object)) {
            stage->scratch = PyMem_Malloc(MC_FIND_MANY * sizeof *stage->scratch);
            if (stage->scratch == NULL) {
                PyErr_NoMemory();
                return -1;
            }
        }
        if (!is_plain(object) && PyObject_Hash(object) == -1) {
            return -1;
        }
        switch (mc_pykey_from(self->options, object, &stage->keys[stage->left],
                              stage->scratch == NULL ? NULL : stage->scratch[i], NULL)) {
        case MC_PYKEY_ERROR:
            return -1;
        case MC_PYKEY_NEVER:
            break;
        case MC_PYKEY_OK:
            stage->which[stage->left++] = (uint8_t)i;
        }
    }
    return 0;
}

/* Answers what it can from the front cache. */
static void ask_front(mc_collection_object *self, const struct mc_reading *reading,
                      struct stage *stage)
{
    struct mc_front *front = mc_reader_front(self->reader);
    size_t kept = 0;
    bool fronted = front->count != 0 && mc_collection_fronted(self, reading);
    for (size_t i = 0; i < stage->left; i++) {
        struct mc_key *key = &stage->keys[i];
        struct mc_front_entry *entry;
        key->hash = mc_view_hash(&reading->view, key);
        entry = fronted ? mc_front_find(front, self->channel, key) : NULL;
        if (mc_collection_holds(self, front, reading, entry)) {
            mc_front_hit(front, entry);
            stage->documents[stage->which[i]] = Py_XNewRef(entry->document);
            continue;
        }
        if (kept != i) {
            bool inlined = key->data == key->inline_data;
            stage->keys[kept] = *key;
            if (inlined) {
                stage->keys[kept].data = stage->keys[kept].inline_data;
            }
            stage->which[kept] = stage->which[i];
        }
        kept++;
    }
    stage->left = kept;
}

/* Finds and copies the rest. MC_OK, MC_EXPIRED, MC_CORRUPT, or MC_NOMEM with an exception. */
static enum mc_status ask_file(mc_collection_object *self, const struct mc_reading *reading,
                               uint64_t root, struct stage *stage)
{
    enum mc_status worst = MC_OK;
    mc_find_many(&reading->view, root, stage->keys, stage->left, stage->hits, stage->statuses);
    for (size_t i = 0; i < stage->left; i++) {
        if (stage->statuses[i] != MC_ABSENT &&
            (stage->statuses[i] != MC_OK || stage->hits[i].value_len < MC_BSON_SIZE_MIN)) {
            worst = MC_CORRUPT;
        }
    }
    for (size_t i = 0; worst == MC_OK && i < stage->left; i++) {
        if (stage->statuses[i] == MC_OK) {
            const struct mc_hit *hit = &stage->hits[i];
            uint8_t *bytes;
            PyObject *document =
                mc_document_new(self->options, hit->value_len, hit->blocks, &bytes);
            if (document == NULL) {
                return MC_NOMEM;
            }
            mc_copy(bytes, hit->value, hit->value_len + (size_t)hit->blocks * MC_BLOCK_BYTES);
            stage->documents[stage->which[i]] = document;
            worst = mc_hit_stands(hit) ? MC_OK : MC_EXPIRED;
        }
    }
    return mc_view_settle(&reading->view, worst);
}

static void remember_all(mc_collection_object *self, const struct mc_reading *reading,
                         const struct stage *stage)
{
    struct mc_front *front = mc_reader_front(self->reader);
    if (front->max_entries == 0) {
        return;
    }
    mc_front_missed(front, stage->left);
    for (size_t i = 0; i < stage->left && mc_collection_fronted(self, reading); i++) {
        mc_collection_remember(self, reading, MC_FORM_DOCUMENT, &stage->keys[i], &stage->hits[i],
                               stage->documents[stage->which[i]]);
    }
}

/* All keys of one generation into `result`. MC_OK, MC_EXPIRED, MC_CORRUPT,
 * or MC_NOMEM with an exception. */
static enum mc_status gather(mc_collection_object *self, const struct mc_reading *reading,
                             uint64_t root, PyObject *keys, struct stage *stage, PyObject *result)
{
    size_t total = (size_t)PyTuple_GET_SIZE(keys);
    for (size_t done = 0; done < total; done += stage->count) {
        enum mc_status status;
        stage->objects = &PyTuple_GET_ITEM(keys, done);
        stage->count = total - done < MC_FIND_MANY ? total - done : MC_FIND_MANY;
        if (convert(self, stage) < 0) {
            return MC_NOMEM;
        }
        ask_front(self, reading, stage);
        status = ask_file(self, reading, root, stage);
        if (status != MC_OK) {
            drop_documents(stage);
            return status;
        }
        remember_all(self, reading, stage);
        for (size_t i = 0; i < stage->count; i++) {
            if (stage->documents[i] != NULL &&
                PyDict_SetItem(result, stage->objects[i], stage->documents[i]) < 0) {
                drop_documents(stage);
                return MC_NOMEM;
            }
        }
        drop_documents(stage);
    }
    return MC_OK;
}

PyObject *mc_collection_get_many(PyObject *self_object, PyObject *keys)
{
    mc_collection_object *self = (mc_collection_object *)self_object;
    struct stage stage;
    PyObject *result = NULL;
    enum mc_status status = MC_EXPIRED;
    unsigned tries = 0;
    if (PyUnicode_Check(keys) || PyBytes_Check(keys)) {
        PyErr_SetString(PyExc_TypeError, "get_many() takes an iterable of keys, not one key");
        return NULL;
    }
    if (mc_document_meet_pymongo(&self->reader->module->documents) < 0) {
        return NULL;
    }
    keys = PySequence_Tuple(keys); /* a list could change while keys are converted */
    if (keys == NULL) {
        return NULL;
    }
    stage.scratch = NULL;
    do {
        struct mc_reading *reading;
        status = mc_collection_begin(self, &reading);
        if (status == MC_OK) {
            uint64_t root = mc_collection_table(self)->root;
            mc_reading_retain(reading); /* a new dict may start a collection of garbage */
            result = PyDict_New();
            status = result == NULL ? MC_NOMEM : gather(self, reading, root, keys, &stage, result);
            mc_reading_release(reading);
        }
        if (status != MC_OK) {
            Py_CLEAR(result);
        }
        status = mc_collection_judge(self, status, &tries);
    } while (status == MC_EXPIRED);
    PyMem_Free(stage.scratch);
    Py_DECREF(keys);
    return result;
}
