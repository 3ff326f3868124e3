/* cache_history.c - Cache.history(): what the loader's last rounds did, a dict for each. */
#include "cache_history.h"

#include "cache.h"
#include "errors.h"

const char mc_history_doc[] = PyDoc_STR(
    "history($self, /)\n--\n\n"
    "What the loader's last rounds did, oldest first: a list of dicts.\n\n"
    "Each has started_at (Unix seconds), started_boot (the same moment in seconds since the\n"
    "machine was started), seconds, reason, rounds, put, deleted, bytes, generation and error,\n"
    "which is None where all went well. The loader keeps the last few hundred; in a file that has\n"
    "none, the list is empty. Any thread of any process may ask, also after a fork.\n\n"
    "Raises ClosedError, CorruptError.");

struct mc_round_record *mc_reading_history(const struct mc_reading *reading, size_t *number,
                                           size_t *damaged)
{
    struct mc_history history = mc_superblock_history(mc_map_superblock(reading->view.map));
    struct mc_round_record *records =
        PyMem_New(struct mc_round_record, (size_t)history.slots + 1); /* none is no room, either */
    if (records == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *number = mc_history_read(&reading->view.space, &history, records, damaged);
    return records;
}

static PyObject *round_dict(const struct mc_round_record *record)
{
    PyObject *reason = mc_field_str(record->reason, sizeof record->reason);
    PyObject *error = record->error[0] == '\0' ? Py_NewRef(Py_None)
                                               : mc_field_str(record->error, sizeof record->error);
    PyObject *dict = NULL;
    if (reason != NULL && error != NULL) {
        dict = Py_BuildValue(
            "{s:d,s:d,s:d,s:O,s:I,s:K,s:K,s:K,s:K,s:O}", "started_at",
            (double)record->started_at / 1e6, "started_boot", (double)record->started_boot / 1e6,
            "seconds", (double)record->duration / 1e6, "reason", reason, "rounds",
            (unsigned)record->rounds, "put", (unsigned long long)record->put, "deleted",
            (unsigned long long)record->deleted, "bytes", (unsigned long long)record->bytes,
            "generation", (unsigned long long)record->generation, "error", error);
    }
    Py_XDECREF(reason);
    Py_XDECREF(error);
    return dict;
}

PyObject *mc_cache_history(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct mc_reading *reading = mc_reader_seek(mc_cache_reader(self));
    struct mc_round_record *records;
    size_t number;
    PyObject *list;
    if (reading == NULL || (records = mc_reading_history(reading, &number, NULL)) == NULL) {
        return NULL;
    }
    list = PyList_New((Py_ssize_t)number); /* the copy is ours, whatever runs now */
    for (size_t i = 0; list != NULL && i < number; i++) {
        PyObject *dict = round_dict(&records[i]);
        if (dict == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, dict);
        }
    }
    PyMem_Free(records);
    return list;
}
