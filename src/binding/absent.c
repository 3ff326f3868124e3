/* absent.c - which collections there are, for whoever asked for another one; and which key.
 *
 *      cache["site"]   KeyError: "no collection 'site': there are 'sites', 'flags' and 3 more"
 *      sites["6b0b..."]  KeyError: "'6b0b...' is a str; there is an ObjectId of these digits: ..."
 *
 * Some services ask for what may not be there and go on without it, so the sentence must cost
 * little: of many collections only CONSIDERED are looked at, SHOWN are named, and names count up to
 * their COMPARED first characters. They come from a file and are shown as repr() shows them, with
 * an escape for whatever a terminal would obey.
 */
#include "absent.h"

#include "document/classes.h"

enum { CONSIDERED = 256, SHOWN = 6, COMPARED = 40 };

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Letters to add, take away or replace to make one name of the other, without regard to case. */
static unsigned distance(PyObject *left, PyObject *right)
{
    unsigned row[COMPARED + 1];
    size_t rows = (size_t)PyUnicode_GET_LENGTH(left), columns = (size_t)PyUnicode_GET_LENGTH(right);
    rows = rows < COMPARED ? rows : COMPARED;
    columns = columns < COMPARED ? columns : COMPARED;
    for (size_t j = 0; j <= columns; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= rows; i++) {
        Py_UCS4 letter = Py_UNICODE_TOLOWER(PyUnicode_READ_CHAR(left, i - 1));
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= columns; j++) {
            bool same = letter == Py_UNICODE_TOLOWER(PyUnicode_READ_CHAR(right, j - 1));
            unsigned replaced = diagonal + !same;
            diagonal = row[j];
            row[j] = least(replaced, least(row[j], row[j - 1]) + 1);
        }
    }
    return row[columns];
}

/* The names by their distance from `name`, then by the alphabet: a list of pairs, or NULL. */
static PyObject *by_distance(PyObject *names, PyObject *name)
{
    PyObject *pairs = PyList_New(0);
    for (Py_ssize_t i = 0; pairs != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *one = PyList_GET_ITEM(names, i);
        PyObject *pair = Py_BuildValue("(IO)", distance(name, one), one);
        if (pair == NULL || PyList_Append(pairs, pair) < 0) {
            Py_CLEAR(pairs);
        }
        Py_XDECREF(pair);
    }
    if (pairs != NULL && PyList_Sort(pairs) < 0) {
        Py_CLEAR(pairs);
    }
    return pairs;
}

/* "no collection 'site': there are 'sites', 'flags'", or NULL. `names` are some of `count`. */
static PyObject *sentence(PyObject *names, uint32_t count, PyObject *name)
{
    PyObject *pairs = by_distance(names, name);
    PyObject *text = pairs == NULL ? NULL
                     : count == 0
                         ? PyUnicode_FromFormat("no collection %.100R: the cache has none", name)
                         : PyUnicode_FromFormat(count == 1 ? "no collection %.100R: there is"
                                                           : "no collection %.100R: there are",
                                                name);
    for (Py_ssize_t i = 0; text != NULL && i < PyList_GET_SIZE(pairs) && i < SHOWN; i++) {
        PyObject *one = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs, i), 1);
        Py_SETREF(text, PyUnicode_FromFormat(i == 0 ? "%U %.100R" : "%U, %.100R", text, one));
    }
    if (text != NULL && count > SHOWN) {
        Py_SETREF(text, PyUnicode_FromFormat("%U and %u more", text, count - SHOWN));
    }
    Py_XDECREF(pairs);
    return text;
}

PyObject *mc_absent_collection(struct mc_reader *reader, struct mc_reading *reading, PyObject *name)
{
    enum mc_status status;
    PyObject *names, *text = NULL;
    uint32_t count;
    if (!PyUnicode_Check(name)) { /* nor could it be like one that is there */
        mc_key_error(name);
        return NULL;
    }
    count = reading->view.root.collections;
    mc_reading_retain(reading);
    names = mc_reading_names(reader, reading, CONSIDERED, &status);
    mc_reading_release(reading);
    if (names != NULL) {
        text = sentence(names, count, name);
        Py_DECREF(names);
    }
    if (text != NULL) {
        PyErr_SetObject(PyExc_KeyError, text);
        Py_DECREF(text);
    } else if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_SetObject(PyExc_KeyError, name); /* that it is absent is right whatever else is not */
    }
    return NULL;
}

void mc_absent_key(mc_collection_object *self, PyObject *object)
{
    struct mc_key key = {.type = MC_BSON_OID, .data = key.inline_data, .len = 12};
    PyObject *text;
    int there = 0;
    if (mc_object_id_read(object, key.inline_data)) {
        there = mc_collection_has(self, &key);
    }
    if (there < 0) { /* that the key is absent is right whatever else is not */
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            return;
        }
        PyErr_Clear();
    }
    if (there <= 0) {
        mc_key_error(object);
        return;
    }
    text = PyUnicode_FromFormat("%R is a str; there is an ObjectId of these digits: look it up as "
                                "mmapcache.object_id(%R)",
                                object, object);
    if (text != NULL) {
        mc_key_error(text);
        Py_DECREF(text);
    }
}
