/* reader.c - refreshing the current reading and moving over to another file
 * (reader.h has the picture).
 *
 * When does a reader look where?
 *
 *      each read          the commit word: one load
 *      commit moved       the root, and with the superseded flag in it the path
 *      each second        the path: was the file deleted or replaced by hand?
 *
 * The clock itself is looked at every `period` reads: 128 for a busy reader, 1 for one that reads
 * seldom, so that both notice within about a second of use. A path that leads nowhere, or to a file
 * without a generation, is asked again later; until then the old file serves.
 */
#include "reader.h"

#include "errors.h"
#include "mutant.h"
#include "region.h"

#define SECOND 1000000000ll
#define PERIOD_MAX 128
#define SEEK_RESTLESS (SECOND / 100) /* a successor is expected any moment */
#define SEEK_QUIET SECOND

enum mc_status mc_reader_open(const char *path, int fd, int64_t owner, bool empty_will_do,
                              struct mc_view *view, struct mc_error *err)
{
    struct mc_map *map;
    enum mc_status status =
        path != NULL ? mc_map_open_of(path, owner, &map, err) : mc_map_open_fd(fd, &map, err);
    if (status != MC_OK) {
        return status;
    }
    status = mc_view_open(map, view, err);
    if (status == MC_NOT_READY && empty_will_do) {
        status = MC_OK;
    }
    if (status != MC_OK) {
        mc_map_release(map);
    }
    return status;
}

/* NULL: out of memory. */
static struct mc_reading *reading_new(struct mc_reader *reader, const struct mc_view *view)
{
    struct mc_reading *reading = PyMem_Malloc(sizeof *reading);
    if (reading != NULL) {
        *reading = (struct mc_reading){.references = 1, .serial = ++reader->serials, .view = *view};
    }
    return reading;
}

void mc_reading_release(struct mc_reading *reading)
{
    if (reading != NULL && mc_count_down(&reading->references)) {
        mc_map_release(reading->view.map);
        PyMem_Free(reading);
    }
}

struct mc_reader *mc_reader_new(struct mc_module *module, const char *path,
                                const struct mc_view *view, struct mc_reader_limits limits)
{
    struct mc_reader *reader = PyMem_Calloc(1, sizeof *reader);
    if (reader == NULL) {
        goto failed;
    }
    reader->references = 1;
    reader->module = module;
    reader->owner = mc_map_owner(view->map);
    reader->lane.countdown = reader->lane.period = 1;
    reader->lane.looked_at = reader->sought_at = mc_clock_ns();
    mc_front_init(&reader->lane.front, limits.front_bytes, limits.front_entries);
#if MC_FREE_THREADED
    mc_lanes_init(&reader->lanes);
#endif
    if (path != NULL) {
        reader->path = PyMem_Malloc(strlen(path) + 1);
        if (reader->path == NULL) {
            goto failed;
        }
        memcpy(reader->path, path, strlen(path) + 1);
    }
    reader->lane.now = reading_new(reader, view);
    if (reader->lane.now != NULL) {
        return reader;
    }
failed:
    mc_map_release(view->map);
    if (reader != NULL) {
        PyMem_Free(reader->path);
        PyMem_Free(reader);
    }
    PyErr_NoMemory();
    return NULL;
}

/* Lets go of what a lane of ours has. */
static void lane_drop(struct mc_lane *lane)
{
    struct mc_reading *now = lane->now;
    lane->now = NULL;
    mc_front_clear(&lane->front);
    mc_reading_release(now);
}

#if MC_FREE_THREADED

struct mc_lane *mc_reader_need_lane(struct mc_reader *reader)
{
    struct mc_own_lane *own = mc_lane_of(&reader->lanes);
    if (own == NULL) {
        own = mc_lane_take(&reader->lanes, &reader->lane.front);
        if (own == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        lane_drop(&own->lane); /* what a thread has left in it */
    }
    return &own->lane;
}

void mc_reader_close(struct mc_reader *reader)
{
    struct mc_lane *own = mc_reader_lane(reader);
    struct mc_reading *now;
    mc_lock(&reader->lanes.mutex);
    now = reader->lane.now;
    reader->lane.now = NULL;
    mc_poke(&reader->closed, true);
    mc_unlock(&reader->lanes.mutex);
    mc_reading_release(now);
    if (own != NULL) {
        lane_drop(own);
    }
}

/* Nobody reads any more. */
static void free_lanes(struct mc_reader *reader)
{
    for (struct mc_own_lane *lane = reader->lanes.first; lane != NULL; lane = lane->next) {
        lane_drop(&lane->lane);
    }
    mc_lanes_free(&reader->lanes);
}

static void lock(struct mc_reader *reader)
{
    if (!MC_MUTANT_IS(720)) { /* 720: each as it comes */
        mc_lock(&reader->lanes.mutex);
    }
}

static void unlock(struct mc_reader *reader)
{
    mc_unlock(&reader->lanes.mutex);
}

/* Takes the lane, which is ours, to the newest reading; begun and ended with the lock held. The
 * front cache of another file is forgotten. */
static void follow(struct mc_reader *reader, struct mc_lane *lane)
{
    struct mc_reading *old = lane->now, *newest = reader->lane.now;
    if (old == newest) {
        return;
    }
    lane->now = MC_MUTANT_IS(721) ? newest : mc_reading_retain(newest); /* 721: nobody holds it */
    unlock(reader);
    if (old != NULL && old->epoch != newest->epoch) {
        mc_front_clear(&lane->front); /* may run any code */
    }
    mc_reading_release(old);
    lock(reader);
}

#else

void mc_reader_close(struct mc_reader *reader)
{
    lane_drop(&reader->lane);
}

static void free_lanes(struct mc_reader *reader)
{
    (void)reader;
}

static void lock(struct mc_reader *reader)
{
    (void)reader;
}

static void unlock(struct mc_reader *reader)
{
    (void)reader;
}

static void follow(struct mc_reader *reader, struct mc_lane *lane)
{
    (void)reader;
    (void)lane;
}

#endif

static void pool_clear(struct mc_pool *pool)
{
    while (pool->count > 0) {
        PyObject_Free(pool->blocks[--pool->count]);
    }
}

void mc_reader_release(struct mc_reader *reader)
{
    if (reader != NULL && mc_count_down(&reader->references)) {
        mc_reader_close(reader);
        free_lanes(reader);
        pool_clear(&reader->snapshots);
        pool_clear(&reader->collections);
        PyMem_Free(reader->path);
        PyMem_Free(reader);
    }
}

/* Makes `view` the current reading. The reading it replaces is reused when nobody else needs it.
 * MC_OK, MC_NOMEM. */
static enum mc_status install(struct mc_reader *reader, const struct mc_view *view,
                              struct mc_error *error)
{
    struct mc_reading *now = reader->lane.now;
    struct mc_reading *next;
    if (mc_load(&now->references) == 1) {
        now->view = *view;
        now->serial = ++reader->serials;
        return MC_OK;
    }
    next = reading_new(reader, view);
    if (next == NULL) {
        return mc_no_memory(error);
    }
    mc_map_retain(view->map);
    next->epoch = now->epoch;
    next->ahead = now->ahead;
    reader->lane.now = next;
    mc_reading_release(now);
    return MC_OK;
}

/* Opens the generation that the commit word names now. */
static enum mc_status advance(struct mc_reader *reader, struct mc_error *error)
{
    struct mc_view view;
    enum mc_status status = MC_EXPIRED;
    for (unsigned i = 0; status == MC_EXPIRED && i < MC_READ_TRIES; i++) {
        status = mc_view_open(reader->lane.now->view.map, &view, error);
    }
    if (status == MC_NOT_READY) { /* what we have is the last that may be read */
        return MC_OK;
    }
    mc_poke(&reader->restless,
            status != MC_OK || ((view.root.flags & MC_ROOT_SUPERSEDED) && reader->path != NULL));
    return status == MC_OK ? install(reader, &view, error) : status;
}

/* Goes over to the file that the path names now, if it is another one and has a generation. */
static bool move(struct mc_reader *reader)
{
    struct mc_reading *now = reader->lane.now;
    struct mc_view view;
    uint64_t ahead = now->ahead;
    uint64_t generation = mc_reading_generation(now);
    bool continued = (now->view.root.flags & MC_ROOT_SUPERSEDED) != 0;
    struct mc_reading *next;
    if (mc_map_is_at(now->view.map, reader->path) ||
        mc_reader_open(reader->path, -1, reader->owner, false, &view, NULL) != MC_OK) {
        return false;
    }
    /* a successor goes on counting; a file that somebody put there by hand starts anew, and ours is
     * not the same content even if the number should be */
    if (view.root.generation + ahead < generation + !continued) {
        ahead = generation + 1 - view.root.generation;
    }
    next = reading_new(reader, &view);
    if (next == NULL) {
        mc_map_release(view.map);
        return false;
    }
    next->epoch = now->epoch + 1;
    next->ahead = ahead;
    reader->lane.now = next;
    mc_poke(&reader->restless, (view.root.flags & MC_ROOT_SUPERSEDED) != 0);
    if (!MC_FREE_THREADED) { /* else each lane does so itself */
        mc_front_clear(&reader->lane.front);
    }
    mc_reading_release(now);
    return true;
}

/* Chooses how many reads may pass until the next look at the clock: about 50 ms worth of them. */
static void pace(struct mc_reader *reader, struct mc_lane *lane, int64_t clock)
{
    int64_t elapsed = clock - lane->looked_at;
    if (mc_peek(&reader->restless) || elapsed > SECOND / 5) {
        lane->period = 1;
    } else if (elapsed < SECOND / 20 && lane->period < PERIOD_MAX) {
        lane->period *= 2;
    }
    lane->countdown = lane->period;
    lane->looked_at = clock;
}

/* All but the exception; with the lock held. */
static enum mc_status refresh(struct mc_reader *reader, struct mc_lane *lane,
                              struct mc_error *error)
{
    enum mc_status status = MC_OK;
    int64_t clock;
    if (reader->lane.now == NULL) {
        return mc_fail(error, MC_CLOSED, "this cache was closed");
    }
    if (!mc_view_current(&reader->lane.now->view)) {
        status = advance(reader, error);
    }
    clock = mc_clock_ns();
    pace(reader, lane, clock);
    if (reader->path != NULL &&
        clock - reader->sought_at >= (mc_peek(&reader->restless) ? SEEK_RESTLESS : SEEK_QUIET)) {
        reader->sought_at = clock;
        if (move(reader)) { /* a good file at the path is the better answer */
            status = MC_OK;
        }
    }
    if (status == MC_OK) {
        follow(reader, lane);
    }
    return status;
}

struct mc_reading *mc_reader_update(struct mc_reader *reader)
{
    struct mc_lane *lane = mc_reader_need_lane(reader);
    struct mc_error error;
    enum mc_status status;
    if (lane == NULL) {
        return NULL;
    }
    lock(reader);
    status = refresh(reader, lane, &error);
    unlock(reader);
    if (status == MC_OK && lane->now != NULL) {
        return lane->now;
    }
    if (status == MC_OK) { /* by what was let go with another file's Documents */
        (void)mc_fail(&error, MC_CLOSED, "this cache was closed");
    }
    if (MC_FREE_THREADED && error.status == MC_CLOSED) {
        lane_drop(lane);
    }
    mc_raise(reader->module, &error);
    return NULL;
}

struct mc_reading *mc_reader_seek(struct mc_reader *reader)
{
    lock(reader);
    reader->sought_at =
        mc_clock_ns() - 2000000000ll; /* as if the path was not looked at for long */
    unlock(reader);
    return mc_reader_update(reader);
}

bool mc_reader_again(struct mc_reader *reader, unsigned *tries)
{
    if (++*tries < MC_READ_TRIES) {
        return true;
    }
    mc_raise_text(
        reader->module, MC_EXPIRED,
        "the loader reclaimed each of %u generations while it was read: this process gets "
        "too little time, or the cache is too small for the changes it is given",
        MC_READ_TRIES);
    return false;
}

PyObject *mc_reader_corrupt(struct mc_reader *reader, const char *what)
{
    struct mc_lane *lane = mc_reader_lane(reader);
    mc_poke(&reader->restless, true);
    if (!MC_FREE_THREADED || lane != NULL) {
        lane->countdown = 1;
    }
    return mc_raise_text(reader->module, MC_CORRUPT,
                         "the cache file %s contradicts itself in %s: have the loader recreate it",
                         reader->path != NULL ? reader->path : "(anonymous)", what);
}

PyObject *mc_name_text(const char *name, size_t len)
{
    PyObject *text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)len, NULL);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
    }
    return text;
}

PyObject *mc_reading_names(struct mc_reader *reader, struct mc_reading *reading, Py_ssize_t most,
                           enum mc_status *status)
{
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_collection ignored;
    char name[MC_NAME_MAX];
    PyObject *names = PyList_New(0);
    *status = MC_OK;
    mc_walk_begin(&walk, &reading->view.space, reading->view.root.catalogue);
    while (names != NULL && PyList_GET_SIZE(names) < most &&
           (*status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        PyObject *text;
        if (mc_hit_collection(&hit, &ignored) != MC_OK) {
            continue;
        }
        if (hit.key_len > MC_NAME_MAX) {
            *status = MC_CORRUPT;
            break;
        }
        mc_copy(name, hit.key, hit.key_len);
        if (!mc_view_valid(&reading->view)) {
            break;
        }
        /* A changed name is under another hash: who asked for it would be told that it is
         * absent. */
        *status = mc_view_collection(&reading->view, name, hit.key_len, &ignored);
        if (*status != MC_OK) {
            *status = *status == MC_ABSENT ? MC_CORRUPT : *status;
            break;
        }
        text = mc_name_text(name, hit.key_len);
        if (text == NULL && !PyErr_Occurred()) {
            *status = MC_CORRUPT;
            break;
        }
        if (text == NULL || PyList_Append(names, text) < 0) {
            Py_CLEAR(names);
        }
        Py_XDECREF(text);
    }
    if (names == NULL) {
        return NULL;
    }
    *status = mc_view_settle(&reading->view, *status);
    if (*status == MC_EXPIRED || *status == MC_CORRUPT) {
        Py_CLEAR(names);
        if (*status == MC_CORRUPT) {
            mc_reader_corrupt(reader, "its catalogue");
        }
    }
    return names;
}

PyObject *mc_view_state_bytes(struct mc_module *module, const struct mc_view *view,
                              enum mc_status *status)
{
    struct mc_hit hit;
    PyObject *bytes;
    *status = mc_find_state(view, &hit);
    if (*status == MC_OK && hit.value_len > MC_STATE_MAX) {
        *status = MC_CORRUPT;
    }
    bytes = PyBytes_FromStringAndSize(NULL, *status == MC_OK ? hit.value_len : 0);
    if (bytes == NULL) {
        return NULL;
    }
    if (*status == MC_OK) {
        mc_copy(PyBytes_AS_STRING(bytes), hit.value, hit.value_len);
    }
    *status = mc_view_settle_value(view, &hit, *status);
    if (*status == MC_EXPIRED || *status == MC_CORRUPT) {
        Py_CLEAR(bytes);
        if (*status == MC_CORRUPT) {
            mc_raise_text(module, MC_CORRUPT,
                          "the loader's state in the cache file is damaged: "
                          "have the loader recreate it");
        }
    }
    return bytes;
}
