/* writer_object.h - the objects Writer, Batch and Replace, which know each other.
 *
 *      Writer ---- owns ----> mc_writer (the core's)
 *         ^
 *         +--- owned by --- Batch <--- owned by --- Replace
 *
 * The core lets one thread in at a time. Short calls are serialised by the GIL, or without one by a
 * section of the Writer, which all methods of the three run in; a call that gives it up sets
 * `busy`, and whoever comes in meanwhile gets an error instead of a race. A destructor
 * cannot raise one: what is dropped meanwhile is taken back when the call is over, so that a half
 * of it is never published.
 */
#ifndef MMAPCACHE_WRITER_OBJECT_H
#define MMAPCACHE_WRITER_OBJECT_H

#include "module.h"
#include "writer/batch.h"
#include "writer/writer.h"

typedef struct {
    PyObject_HEAD
    struct mc_module *module;
    struct mc_writer *writer; /* NULL: closed */
    PyObject *path;           /* owned str, as it was given; empty: anonymous */
    char *absolute;           /* owned; NULL: anonymous */
    PyObject *cache;          /* owned Cache for status() and stats(), made on first need */
    void *batch;              /* the Batch that is open, not owned: it owns us */
    bool busy;                /* a call is running without the GIL */
    bool lost_batch;          /* the open batch was dropped during that call, */
    bool lost_replace;        /* or the open replace: taken back when the call is over */
} mc_writer_object;

enum mc_batch_stage { MC_BATCH_NEW, MC_BATCH_OPEN, MC_BATCH_DONE };

typedef struct {
    PyObject_HEAD
    mc_writer_object *writer; /* owned */
    enum mc_batch_stage stage;
    struct mc_batch_counts counts; /* once it is done */
    uint64_t generation;           /* published, 0: nothing */
    void *replace;                 /* the Replace that is open, not owned */
} mc_batch_object;

typedef struct {
    PyObject_HEAD
    mc_batch_object *batch; /* owned */
    PyObject *name;         /* owned str */
    enum mc_batch_stage stage;
} mc_replace_object;

/* Whose section the methods of a Writer, a Batch and a Replace run in: borrowed. */
static inline PyObject *mc_writer_itself(PyObject *writer)
{
    return writer;
}

static inline PyObject *mc_writer_of_batch(PyObject *batch)
{
    return (PyObject *)((mc_batch_object *)batch)->writer;
}

static inline PyObject *mc_writer_of_replace(PyObject *replace)
{
    return (PyObject *)((mc_replace_object *)replace)->batch->writer;
}

/* The core's writer, ready for one call: NULL with an exception when it is closed, busy, or the
 * parent process's. */
struct mc_writer *mc_writer_enter(mc_writer_object *self);

/* Ends the time of being busy, with the GIL held: takes back what was dropped meanwhile. */
void mc_writer_leave(mc_writer_object *self);

/* What to do when the open batch or replace is dropped: takes it back, now or in
 * mc_writer_leave. */
void mc_writer_lost(mc_writer_object *self, bool batch);

#endif
