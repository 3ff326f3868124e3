/* replies.c - what the loader cuts out of a MongoDB server's replies.
 *
 * A loader that follows a database handles a thousand change events in one reply, and as many
 * documents in the next. To make Python objects of them, only to ask for an _id, costs more than
 * all else that is done with them. So these functions walk over the reply's bytes:
 *
 *      cut_events    a change stream's reply  -> which documents its events are of
 *      cut_ids       concatenated documents   -> their _ids
 *
 * An _id is told as bytes: its BSON type, and its value. What is not as expected is no error here:
 * the caller gets it as it came, and knows what to do with it.
 */
#include "replies.h"

#include "arguments.h"
#include "bson.h"
#include "errors.h"

static bool is_named(const struct mc_bson_element *element, const char *name, size_t len)
{
    return element->name_len == len && memcmp(element->name, name, len) == 0;
}

#define IS(element, literal) is_named(element, literal, sizeof(literal) - 1)

/* Type and value of an element as bytes. */
static PyObject *element_bytes(const struct mc_bson_element *element)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)element->value_len + 1);
    if (bytes != NULL) {
        char *to = PyBytes_AS_STRING(bytes);
        *to = (char)element->type;
        memcpy(to + 1, element->value, element->value_len);
    }
    return bytes;
}

/* ---- change events ---- */

/* What there is to know of the change of one document. The bytes are the reply's. */
struct change {
    struct mc_bson_element token, collection, id;
    uint64_t time; /* seconds << 32 | count */
    bool alone, gone;
};

/* Whether the operation is the change of one document; *gone: which takes it away. */
static bool is_change(const struct mc_bson_element *element, bool *gone)
{
    const uint8_t *kind;
    uint32_t len;
    if (element->type != MC_BSON_STRING || mc_bson_text(element, &kind, &len) != MC_OK) {
        return false;
    }
    *gone = len == 6 && memcmp(kind, "delete", 6) == 0;
    return *gone || (len == 6 && memcmp(kind, "update", 6) == 0) ||
           (len == 6 && memcmp(kind, "insert", 6) == 0) ||
           (len == 7 && memcmp(kind, "replace", 7) == 0);
}

/* The _id of a documentKey: not one of a type that is out of use, by which nothing is found. */
static bool take_key(const struct mc_bson_element *key, struct mc_bson_element *id)
{
    return key->type == MC_BSON_DOCUMENT &&
           mc_bson_validate(key->value, key->value_len, NULL) == MC_OK &&
           mc_bson_find(key->value, key->value_len, "_id", 3, id) == MC_OK &&
           id->type != MC_BSON_UNDEFINED && id->type != MC_BSON_DBPOINTER;
}

static bool take_collection(const struct mc_bson_element *ns, struct mc_bson_element *collection)
{
    return ns->type == MC_BSON_DOCUMENT &&
           mc_bson_find(ns->value, ns->value_len, "coll", 4, collection) == MC_OK &&
           collection->type == MC_BSON_STRING;
}

/* Reads an event; false unless it is the change of one document and has all that tells so. */
static bool read_event(const struct mc_bson_element *event, struct change *change)
{
    enum { TOKEN = 1, KIND = 2, PLACE = 4, KEY = 8, TIME = 16, ALL = 31 };
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status;
    int seen = 0;
    change->alone = true;
    if (event->type != MC_BSON_DOCUMENT ||
        mc_bson_open(&cursor, event->value, event->value_len) != MC_OK) {
        return false;
    }
    while ((status = mc_bson_next(&cursor, &element)) == MC_OK) {
        int field = 0;
        bool good = true;
        if (IS(&element, "_id")) {
            field = TOKEN;
            change->token = element;
            good = element.type == MC_BSON_DOCUMENT &&
                   mc_bson_validate(element.value, element.value_len, NULL) == MC_OK;
        } else if (IS(&element, "operationType")) {
            field = KIND;
            good = is_change(&element, &change->gone);
        } else if (IS(&element, "ns")) {
            field = PLACE;
            good = take_collection(&element, &change->collection);
        } else if (IS(&element, "documentKey")) {
            field = KEY;
            good = take_key(&element, &change->id);
        } else if (IS(&element, "clusterTime")) {
            field = TIME;
            good = element.type == MC_BSON_TIMESTAMP;
            change->time = good ? mc_bson_u64(element.value) : 0;
        } else if (IS(&element, "txnNumber")) {
            change->alone = false;
        }
        if (!good || (seen & field) != 0) {
            return false;
        }
        seen |= field;
    }
    return status == MC_ABSENT && seen == ALL;
}

/* A collection's name as text: *before, the one of the event before, when it is the same. NULL
 * without an exception when it is not UTF-8. */
static PyObject *collection_text(const struct mc_bson_element *element, PyObject **before)
{
    const uint8_t *text;
    uint32_t len;
    Py_ssize_t known = 0;
    const char *same = *before == NULL ? NULL : PyUnicode_AsUTF8AndSize(*before, &known);
    if (mc_bson_text(element, &text, &len) != MC_OK || !mc_utf8_valid(text, len)) {
        return NULL;
    }
    if (same == NULL || (size_t)known != len || memcmp(same, text, len) != 0) {
        PyErr_Clear();
        Py_XSETREF(*before, PyUnicode_DecodeUTF8((const char *)text, len, NULL));
    }
    return Py_XNewRef(*before);
}

/* (collection, _id, time, alone, gone) of an event. NULL without an exception for one that is to be
 * given as it came. */
static PyObject *change_tuple(const struct change *change, PyObject **collection)
{
    PyObject *tuple, *name = collection_text(&change->collection, collection);
    if (name == NULL) {
        return NULL;
    }
    tuple = PyTuple_New(5);
    if (tuple == NULL) {
        Py_DECREF(name);
        return NULL;
    }
    PyTuple_SET_ITEM(tuple, 0, name);
    PyTuple_SET_ITEM(tuple, 1, element_bytes(&change->id));
    PyTuple_SET_ITEM(tuple, 2, PyLong_FromUnsignedLongLong(change->time));
    PyTuple_SET_ITEM(tuple, 3, PyBool_FromLong(change->alone));
    PyTuple_SET_ITEM(tuple, 4, PyBool_FromLong(change->gone));
    if (PyTuple_GET_ITEM(tuple, 1) == NULL || PyTuple_GET_ITEM(tuple, 2) == NULL) {
        Py_CLEAR(tuple);
    }
    return tuple;
}

/* Puts the changes that were gathered, with the newest one's token, into the parts: 0 or -1. */
static int end_run(PyObject *parts, PyObject **run, const struct mc_bson_element *token)
{
    PyObject *part;
    int result;
    if (*run == NULL) {
        return 0;
    }
    part = Py_BuildValue("(Oy#)", *run, (const char *)token->value, (Py_ssize_t)token->value_len);
    result = part == NULL ? -1 : PyList_Append(parts, part);
    Py_XDECREF(part);
    Py_CLEAR(*run);
    return result;
}

/* One event more: its change to the run, or the run and the event as it came to the parts. */
static int add_event(PyObject *parts, PyObject **run, PyObject **collection,
                     const struct mc_bson_element *event, struct mc_bson_element *token)
{
    struct change change;
    PyObject *item = NULL;
    int result;
    if (read_event(event, &change)) {
        item = change_tuple(&change, collection);
        if (item == NULL && PyErr_Occurred()) {
            return -1;
        }
    }
    if (item == NULL) {
        if (end_run(parts, run, token) < 0) {
            return -1;
        }
        item = PyBytes_FromStringAndSize((const char *)event->value, event->value_len);
        result = item == NULL ? -1 : PyList_Append(parts, item);
    } else {
        *token = change.token;
        if (*run == NULL) {
            *run = PyList_New(0);
        }
        result = *run == NULL ? -1 : PyList_Append(*run, item);
    }
    Py_XDECREF(item);
    return result;
}

/* The parts of an array of events: NULL without an exception when it is no array of documents. */
static PyObject *parts_of(const struct mc_bson_element *array)
{
    PyObject *parts, *run = NULL, *collection = NULL;
    struct mc_bson_cursor cursor;
    struct mc_bson_element event, token = {0};
    enum mc_status status;
    int result = 0;
    if (mc_bson_open(&cursor, array->value, array->value_len) != MC_OK) {
        return NULL;
    }
    parts = PyList_New(0);
    if (parts == NULL) {
        return NULL;
    }
    while (result == 0 && (status = mc_bson_next(&cursor, &event)) != MC_ABSENT) {
        if (status != MC_OK || event.type != MC_BSON_DOCUMENT ||
            mc_bson_size(event.value, event.value_len) != event.value_len) {
            result = -1;
        } else {
            result = add_event(parts, &run, &collection, &event, &token);
        }
    }
    if (result == 0) {
        result = end_run(parts, &run, &token);
    }
    Py_XDECREF(run);
    Py_XDECREF(collection);
    if (result < 0) {
        Py_CLEAR(parts);
    }
    return parts;
}

/* Finds the batch in a reply's cursor, its only array: false when there is not just one. */
static bool find_batch(const uint8_t *data, size_t len, struct mc_bson_element *batch)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status;
    bool found = false;
    if (mc_bson_size(data, len) != len || mc_bson_open(&cursor, data, len) != MC_OK) {
        return false;
    }
    while ((status = mc_bson_next(&cursor, &element)) == MC_OK) {
        if (element.type == MC_BSON_ARRAY) {
            if (found || !(IS(&element, "nextBatch") || IS(&element, "firstBatch"))) {
                return false;
            }
            found = true;
            *batch = element;
        }
    }
    return found && status == MC_ABSENT;
}

/* The document without one of its elements. */
static PyObject *without(const uint8_t *data, size_t len, const struct mc_bson_element *element)
{
    size_t before = (size_t)(element->name - 1 - data);
    const uint8_t *after = element->value + element->value_len;
    size_t behind = (size_t)(data + len - after);
    uint32_t size = (uint32_t)(before + behind);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes != NULL) {
        char *to = PyBytes_AS_STRING(bytes);
        memcpy(to, data, before);
        memcpy(to, &size, sizeof size);
        memcpy(to + before, after, behind);
    }
    return bytes;
}

static PyObject *cut_events(PyObject *module, PyObject *reply)
{
    PyObject *parts = NULL, *rest = NULL, *result = NULL, *data = mc_frozen(reply);
    struct mc_bson_element batch = {0};
    (void)module;
    if (data == NULL) {
        return NULL;
    }
    const uint8_t *bytes = (const uint8_t *)PyBytes_AS_STRING(data);
    size_t len = (size_t)PyBytes_GET_SIZE(data);
    if (find_batch(bytes, len, &batch)) {
        parts = parts_of(&batch);
        rest = parts == NULL ? NULL : without(bytes, len, &batch);
    }
    if (rest != NULL) {
        result = Py_BuildValue("(s#OO)", (const char *)batch.name, (Py_ssize_t)batch.name_len,
                               parts, rest);
    } else if (!PyErr_Occurred()) {
        result = Py_NewRef(Py_None);
    }
    Py_XDECREF(rest);
    Py_XDECREF(parts);
    Py_DECREF(data);
    return result;
}

/* ---- documents ---- */

static PyObject *cut_ids(PyObject *module, PyObject *buffer)
{
    PyObject *ids = NULL, *data = mc_frozen(buffer);
    if (data == NULL) {
        return NULL;
    }
    const uint8_t *begin = (const uint8_t *)PyBytes_AS_STRING(data), *at = begin;
    const uint8_t *end = begin + PyBytes_GET_SIZE(data);
    ids = PyList_New(0);
    while (ids != NULL && at < end) {
        struct mc_bson_element element;
        size_t size = mc_bson_size(at, (size_t)(end - at));
        PyObject *id = NULL;
        if (size == 0) {
            mc_raise_text(PyModule_GetState(module), MC_INVALID,
                          "no document begins at byte %zu of the buffer", (size_t)(at - begin));
            Py_CLEAR(ids);
            break;
        }
        if (mc_bson_find(at, size, "_id", 3, &element) == MC_OK) {
            id = element_bytes(&element);
            if (id == NULL || PyList_Append(ids, id) < 0) {
                Py_CLEAR(ids);
            }
            Py_XDECREF(id);
        }
        at += size;
    }
    Py_DECREF(data);
    return ids;
}

PyMethodDef mc_reply_functions[] = {
    {"cut_events", cut_events, METH_O,
     "cut_events($module, cursor, /)\n--\n\n"
     "The events in the `cursor` of a change stream's reply: the name of the batch, its parts, and "
     "the\n"
     "BSON of what else there is. A part is a list of the changes of documents that follow each "
     "other\n"
     "(collection, type and value of the _id, time, not in a transaction, deleted), with the "
     "resume\n"
     "token of the last; or one event as it came, which is something else. None: it is no such "
     "reply."},
    {"cut_ids", cut_ids, METH_O,
     "cut_ids($module, buffer, /)\n--\n\n"
     "Type and value of the _id of each of the buffer's documents that has one.\n"
     "Raises InvalidDocument when it cannot be cut into documents."},
    {NULL, NULL, 0, NULL},
};
