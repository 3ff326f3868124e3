/* classes.h - Python classes, modules and attributes by their names. */
#ifndef MMAPCACHE_CLASSES_H
#define MMAPCACHE_CLASSES_H

#include "document.h"

/* By these PyMongo's encoder knows its classes, and those that look like them: _type_marker. */
enum {
    MC_MARKER_BINARY = 5,
    MC_MARKER_OBJECTID = 7,
    MC_MARKER_TIMESTAMP = 17,
    MC_MARKER_INT64 = 18,
    MC_MARKER_DECIMAL128 = 19,
    MC_MARKER_RAW = 101,
};

/* Interns the names of attributes: 0, or -1 with MemoryError. */
int mc_texts_init(struct mc_document_state *state);

/* PyObject_GetAttrString and PyObject_CallMethod with interned names: a name made anew each time
 * would take a place in the interpreter's cache of attributes each time. arg may be NULL. */
PyObject *mc_attribute(PyObject *object, const char *name);
PyObject *mc_call_method(PyObject *object, const char *name, PyObject *arg);

/* The module of that name if it has been imported: a new reference; NULL without an exception when
 * it has not, or with MemoryError. And whether it has been: 1, 0, -1. */
PyObject *mc_imported(const char *name);
int mc_is_imported(const char *name);

/* Tells pprint how Documents and Arrays are broken into lines, once pprint is there: 0, or -1 with
 * MemoryError. It asks for an object's repr() before it looks how to print it, so that is when. */
int mc_document_meet_pprint(struct mc_document_state *state);

/* Whether the object is of a class that we know by now, or would know by its name if its module is
 * imported: 1, 0, -1. Never imports anything. */
int mc_is_a(struct mc_document_state *state, PyObject *object, enum mc_class which);

/* Whether the object is a datetime: 1, 0, -1. Does not import datetime for it. */
int mc_datetime_check(struct mc_document_state *state, PyObject *object);

/* The whole numbers that count attributes hold, whose names begin with `first` in enum mc_texts:
 * 0 or -1. Attributes, as datetime's classes are not in C everywhere (classes.c). */
int mc_numbers_of(struct mc_document_state *state, PyObject *object, enum mc_texts first, int count,
                  int *out);

/* The _type_marker of a class, or of whatever else has one: 0 for none, or one that is no positive
 * number; -1 only with MemoryError. */
long mc_marker_of(struct mc_document_state *state, PyObject *holder);

/* The 128 low bits of a non-negative int as two words, the low one first; false when it has more,
 * or with an error. */
bool mc_int_words(PyObject *number, uint64_t words[2]);

/* Whether the exception that there is says only that bson is not there: then it is cleared. */
bool mc_only_bson_missing(struct mc_document_state *state);

/* Sets KeyError for a key, whatever that is: a tuple as the value would unpack itself. */
void mc_key_error(PyObject *key);

#endif
