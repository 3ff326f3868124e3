/* collection.h - the object Collection, and the steps of a read through one.
 *
 * A Collection is a name and, for speed, the place of that name's table in one generation; without
 * a GIL, one in each lane. A collection of a snapshot stays with the snapshot's reading; any other
 * follows the reader's current one. `channel` tells the front cache
 * whose keys are whose: the snapshot's collection and the live one of the same name share it.
 */
#ifndef MMAPCACHE_COLLECTION_H
#define MMAPCACHE_COLLECTION_H

#include "errors.h"
#include "mapping.h"
#include "pykey.h"
#include "reader.h"

typedef struct {
    mc_mapping_object head;
    struct mc_reading *reading; /* NULL: closed */
    PyObject *cache;            /* owned */
#if MC_FREE_THREADED
    struct mc_reading *held; /* counted until the end: another thread may be reading at close() */
#endif
} mc_snapshot_object;

typedef struct {
    PyObject_HEAD
    struct mc_reader *reader;     /* counted */
    mc_snapshot_object *snapshot; /* owned; NULL: follows the reader */
    struct mc_options *options;   /* counted */
    PyObject *codec_options;      /* owned; NULL: the cache's own */
    PyObject *name;               /* owned str */
    uint32_t channel;
#if !MC_FREE_THREADED
    struct mc_place place;
#endif
} mc_collection_object;

/* Where the collection's table is, as the calling thread knows it, which has a lane. */
static inline struct mc_place *mc_collection_place(mc_collection_object *self)
{
#if MC_FREE_THREADED
    return &mc_lane_of(&self->reader->lanes)->places[self->channel % MC_LANE_PLACES];
#else
    return &self->place;
#endif
}

static inline const struct mc_collection *mc_collection_table(mc_collection_object *self)
{
    return &mc_collection_place(self)->table;
}

/* Whether that is the table of the reading. */
static inline bool mc_collection_knows(mc_collection_object *self, const struct mc_reading *reading)
{
    const struct mc_place *place = mc_collection_place(self);
    return place->serial == reading->serial &&
           (!MC_FREE_THREADED || place->channel == self->channel);
}

/* A new handle. name may be any str, even one that no collection can have. */
PyObject *mc_collection_new(struct mc_reader *reader, struct mc_options *options, PyObject *name,
                            PyObject *codec_options);

/* The same collection, bound to a snapshot. */
PyObject *mc_collection_bind(mc_collection_object *live, mc_snapshot_object *snapshot);

/* The reading to answer from, with the place of its table made right for it. MC_OK, MC_EXPIRED, or
 * MC_CLOSED for any failure that left an exception. */
enum mc_status mc_collection_resolve(mc_collection_object *self, struct mc_reading **reading);

/* A snapshot's reading, for a thread that has a lane then: NULL with an exception. */
static inline struct mc_reading *mc_snapshot_reading(mc_snapshot_object *snapshot,
                                                     struct mc_reader *reader)
{
    struct mc_reading *reading = mc_load(&snapshot->reading);
    if (reading == NULL) {
        mc_raise_text(reader->module, MC_CLOSED, "this snapshot was closed");
    }
    if (MC_FREE_THREADED && reading != NULL && mc_reader_need_lane(reader) == NULL) {
        return NULL;
    }
    return reading;
}

/* The reading without looking at the table: NULL with an exception. */
static inline struct mc_reading *mc_collection_reading(mc_collection_object *self)
{
    if (self->snapshot == NULL) {
        return mc_reader_now(self->reader);
    }
    return mc_snapshot_reading(self->snapshot, self->reader);
}

static inline enum mc_status mc_collection_begin(mc_collection_object *self,
                                                 struct mc_reading **reading)
{
    *reading = mc_collection_reading(self);
    if (*reading == NULL) {
        return MC_CLOSED;
    }
    return mc_collection_knows(self, *reading) ? MC_OK : mc_collection_resolve(self, reading);
}

/* What follows from the status that an attempt to read ended with: MC_OK and MC_ABSENT are answers,
 * MC_EXPIRED says to try again with a newer generation, and MC_CLOSED that there is an exception,
 * which this has set where there was none. */
enum mc_status mc_collection_judge(mc_collection_object *self, enum mc_status status,
                                   unsigned *tries);

/* Sets CorruptError for this collection. */
void mc_collection_corrupt(mc_collection_object *self);

/* The same as mc_collection_begin, as often as it takes: MC_OK, or MC_CLOSED with an exception. */
enum mc_status mc_collection_ready(mc_collection_object *self, struct mc_reading **reading);

/* Makes a key of an object, in *key or in MC_KEY_MAX bytes of scratch. False with an exception; or
 * with *absent set, which is false before, for what can never be a key. May run Python code. */
static inline bool mc_collection_key(mc_collection_object *self, PyObject *object,
                                     struct mc_key *key, uint8_t *scratch, bool *absent)
{
    enum mc_pykey_result made;
    if (mc_document_meet_pymongo(&self->reader->module->documents) < 0) {
        return false;
    }
    made = mc_pykey_from(self->options, object, key, scratch, NULL);
    if (made == MC_PYKEY_NEVER) {
        *absent = mc_collection_reading(self) != NULL;
    }
    return made == MC_PYKEY_OK;
}

/* What a read makes of a value. */
enum mc_form { MC_FORM_DOCUMENT, MC_FORM_RAW /* bytes */ };

/* Whose keys these are in the front cache. */
static inline uint32_t mc_collection_channel(const mc_collection_object *self, enum mc_form form)
{
    return form == MC_FORM_DOCUMENT ? self->channel : self->channel | MC_FRONT_RAW;
}

/* Copies what a hit found into a new object: NULL with MemoryError. The hit is checked only as far
 * as that it lies in the map; the caller validates the view before anybody sees the object. */
PyObject *mc_collection_copy(mc_collection_object *self, enum mc_form form,
                             const struct mc_hit *hit);

/* Whether an entry of an earlier generation in a front cache of this collection's keys is right for
 * the reading, too: at the price of a comparison where the collection has not changed since, else
 * of a look at its table. False also where the table is not known, which mc_collection_begin sees
 * to. */
bool mc_collection_still(mc_collection_object *self, struct mc_front *front,
                         const struct mc_reading *reading, struct mc_front_entry *entry);

/* The same for an entry of whatever generation, or none. */
static inline bool mc_collection_holds(mc_collection_object *self, struct mc_front *front,
                                       const struct mc_reading *reading,
                                       struct mc_front_entry *entry)
{
    return entry != NULL && (mc_front_holds(entry, reading->view.root.generation) ||
                             mc_collection_still(self, front, reading, entry));
}

/* The entry of the reader's front cache that answers for a Document's key in that reading, counted
 * as a hit, or NULL. It learns `object`, from which the key was made, as its alias; NULL: none. */
struct mc_front_entry *mc_collection_ask(mc_collection_object *self,
                                         const struct mc_reading *reading, PyObject *object,
                                         const struct mc_key *key);

/* Tells the front cache what was found (NULL: nothing) in a reading of the same file, as
 * mc_collection_fronted says. */
void mc_collection_remember(mc_collection_object *self, const struct mc_reading *reading,
                            enum mc_form form, const struct mc_key *key, const struct mc_hit *hit,
                            PyObject *found);

/* How a read goes about it. */
struct mc_manner {
    enum mc_form form;
    bool asks; /* the front cache, and tells it what it found */
};

/* One attempt at a key that the front cache does not simply have: the object, or NULL with
 * MC_ABSENT, MC_EXPIRED (try again), MC_CORRUPT or MC_NOMEM in *status. *fact, when wanted, says
 * whereby the same document is known again; it names no object. */
PyObject *mc_collection_find(mc_collection_object *self, struct mc_reading *reading,
                             struct mc_manner manner, const struct mc_key *key,
                             struct mc_front_fact *fact, enum mc_status *status);

/* The same for the Document of a key, after a look into the front cache. */
PyObject *mc_collection_document(mc_collection_object *self, struct mc_reading *reading,
                                 const struct mc_key *key, struct mc_front_fact *fact,
                                 enum mc_status *status);

/* Whether the file has the key, whose hash this sets: 1, 0, or -1 with an exception. */
int mc_collection_has(mc_collection_object *self, struct mc_key *key);

/* True when the front cache speaks of the same file as the reading. */
static inline bool mc_collection_fronted(const mc_collection_object *self,
                                         const struct mc_reading *reading)
{
    const struct mc_reading *now = mc_reader_lane(self->reader)->now;
    return now == reading || (now != NULL && now->epoch == reading->epoch);
}

#endif
