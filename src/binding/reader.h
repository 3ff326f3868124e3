/* reader.h - one open cache in this process: which generation is read, and from which file.
 *
 *      Cache, Collection, ... --> mc_reader --> mc_reading now  --> mc_map   the file
 *      Snapshot, iterator -------------------> mc_reading older --> mc_map   or its predecessor
 *
 * A reading is one opened generation, shared by whoever needs exactly that one. The reader replaces
 * `now` when the commit word has moved, and moves over to another file when the root says that this
 * one is superseded, or when the path turns out to name another file. Both are plain memory of this
 * process, counted, without a descriptor or a thread: a fork copies them and both sides go on.
 *
 * With a GIL that is all. Without one each thread reads by a lane of its own (lane.h), which holds
 * the reading that the thread uses; the reader's is then the newest one, which each lane goes over
 * to when it sees that the commit word has moved. That is the only time that it takes the lock. A
 * lane also has to find out by itself that the cache was closed. Until its thread reads again, an
 * idle one keeps its Documents, and the file that it read mapped.
 */
#ifndef MMAPCACHE_READER_H
#define MMAPCACHE_READER_H

#include "lane.h"
#include "module.h"
#include "store.h"

struct mc_reading {
    size_t references;
    uint64_t serial;     /* differs for every generation that this reader opened */
    uint64_t epoch;      /* differs for every file that this reader opened */
    uint64_t ahead;      /* added to the file's generation, so that ours never goes back */
    struct mc_view view; /* of a map that the reading retains */
};

/* Memory of a few objects of one type, kept for the next ones: a request makes a Snapshot and some
 * Collections and drops them again. Blocks, not objects: they hold no reference. */
#define MC_POOL_BLOCKS 8u
struct mc_pool {
    unsigned count;
    void *blocks[MC_POOL_BLOCKS];
};

struct mc_reader {
    size_t references;
    struct mc_module *module;
    struct mc_lane lane; /* the only one; without a GIL: the newest reading, and the limits */
    bool restless;       /* superseded or corrupt: look for the successor soon */
    uint32_t channels;   /* handles numbered so far */
    uint64_t serials;
    int64_t sought_at; /* nanoseconds: the last look at the path */
    char *path;        /* absolute; NULL: anonymous */
    int64_t owner;     /* uid that a successor may have: as asked for, or else the first file's, for
                          this process may have become another user meanwhile */
    struct mc_pool snapshots, collections;
#if MC_FREE_THREADED
    bool closed; /* so that each lane may know without a lock */
    struct mc_lanes lanes;
#endif
};

struct mc_reader_limits {
    uint64_t front_bytes;
    uint32_t front_entries;
};

/* Opens the file at `path`, which may be the user `owner`'s (see mc_map_open_of), or at descriptor
 * `fd` when path is NULL. When `empty_will_do`, a file
 * without a generation reads as an empty cache; else it is MC_NOT_READY. Needs no GIL. */
enum mc_status mc_reader_open(const char *path, int fd, int64_t owner, bool empty_will_do,
                              struct mc_view *view, struct mc_error *err);

/* A reader of that view, whose map it takes over,
 * or NULL with MemoryError (the map is released). */
struct mc_reader *mc_reader_new(struct mc_module *module, const char *path,
                                const struct mc_view *view, struct mc_reader_limits limits);

/* A new, uninitialised object of that type, or NULL with MemoryError; and the way back. */
static inline void *mc_pool_new(struct mc_pool *pool, PyTypeObject *type)
{
    return MC_KEEPS_BLOCKS && pool->count > 0 ? PyObject_Init(pool->blocks[--pool->count], type)
                                              : PyObject_New(PyObject, type);
}

static inline void mc_pool_free(struct mc_pool *pool, void *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (MC_KEEPS_BLOCKS && pool->count < MC_POOL_BLOCKS) {
        pool->blocks[pool->count++] = object;
    } else {
        PyObject_Free(object);
    }
    Py_DECREF(type);
}

static inline struct mc_reader *mc_reader_retain(struct mc_reader *reader)
{
    mc_count_up(&reader->references);
    return reader;
}

void mc_reader_release(struct mc_reader *reader);

/* Forgets the file and the front cache; harmless twice. */
void mc_reader_close(struct mc_reader *reader);

/* Looks at the commit word, at the clock and, when it is time, at the path; the reading to use now,
 * borrowed, or NULL with an exception. */
struct mc_reading *mc_reader_update(struct mc_reader *reader);

/* The same after a look at the path, too: what a report is about. */
struct mc_reading *mc_reader_seek(struct mc_reader *reader);

/* The lane of the calling thread. NULL: without a GIL, one that has not read by this reader. */
static inline struct mc_lane *mc_reader_lane(struct mc_reader *reader)
{
#if MC_FREE_THREADED
    struct mc_own_lane *own = mc_lane_of(&reader->lanes);
    return own == NULL ? NULL : &own->lane;
#else
    return &reader->lane;
#endif
}

/* The same, made if need be: NULL with MemoryError. */
#if MC_FREE_THREADED
struct mc_lane *mc_reader_need_lane(struct mc_reader *reader);
#else
static inline struct mc_lane *mc_reader_need_lane(struct mc_reader *reader)
{
    return &reader->lane;
}
#endif

/* Of a thread that has a lane, as each has after a read. */
static inline struct mc_front *mc_reader_front(struct mc_reader *reader)
{
    return &mc_reader_lane(reader)->front;
}

/* Whether the reader was closed. */
static inline bool mc_reader_closed(struct mc_reader *reader)
{
#if MC_FREE_THREADED
    return mc_peek(&reader->closed);
#else
    return reader->lane.now == NULL;
#endif
}

/* The current reading, borrowed: what mc_reader_update would say, at the cost of one load. */
static inline struct mc_reading *mc_reader_now(struct mc_reader *reader)
{
    struct mc_lane *lane = mc_reader_lane(reader);
    if (!MC_FREE_THREADED || (lane != NULL && !mc_reader_closed(reader))) {
        struct mc_reading *now = lane->now;
        if (now != NULL && mc_view_current(&now->view) && --lane->countdown > 0) {
            return now;
        }
    }
    return mc_reader_update(reader);
}

static inline struct mc_reading *mc_reading_retain(struct mc_reading *reading)
{
    mc_count_up(&reading->references);
    return reading;
}

void mc_reading_release(struct mc_reading *reading);

/* The generation as users see it. */
static inline uint64_t mc_reading_generation(const struct mc_reading *reading)
{
    return reading->view.root.generation + reading->ahead;
}

/* After MC_EXPIRED in a read of the current generation: true to try again, false with an exception
 * when a thousand tries were in vain. */
bool mc_reader_again(struct mc_reader *reader, unsigned *tries);
#define MC_READ_TRIES 1000u

/* Sets CorruptError and makes the reader look whether its file was replaced. Always NULL. */
PyObject *mc_reader_corrupt(struct mc_reader *reader, const char *what);

/* A collection's name as str; NULL without an exception when it is not UTF-8: the file is
 * corrupt. */
PyObject *mc_name_text(const char *name, size_t len);

/* The names in a generation's catalogue, at most `most` of them, as a list of str, or NULL with an
 * exception; MC_EXPIRED in *status, without an exception, when it was reclaimed meanwhile. */
PyObject *mc_reading_names(struct mc_reader *reader, struct mc_reading *reading, Py_ssize_t most,
                           enum mc_status *status);

/* The loader's own state as bytes: a new reference, or NULL as above. */
PyObject *mc_view_state_bytes(struct mc_module *module, const struct mc_view *view,
                              enum mc_status *status);

#endif
