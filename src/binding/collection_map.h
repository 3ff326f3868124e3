/* collection_map.h - the object CollectionMap, and a read through it.
 *
 * collection_map.c says how values are kept; collection_map_type.c has the type.
 */
#ifndef MMAPCACHE_COLLECTION_MAP_H
#define MMAPCACHE_COLLECTION_MAP_H

#include "collection.h"

typedef struct mc_map_object mc_map_object;

/* A value as a front cache owns it. */
struct mc_built {
    PyObject_HEAD
    PyObject *value;       /* owned */
    mc_map_object *map;    /* the one whose front cache owns this: it lives longer */
    struct mc_built *next; /* dead ones */
};

struct mc_map_object {
    PyObject_HEAD
    mc_collection_object *collection; /* owned */
    PyObject *function;               /* owned; NULL: the garbage collector was here */
    PyObject *missing;                /* owned; NULL likewise */
    uint64_t epoch;                   /* of the file that the front cache speaks of */
    uint32_t swept;                   /* the entry that was looked at last */
    struct mc_built *dead;            /* with a GIL; without, each thread has its own */
    struct mc_front front;
};

#define MC_MAP_CHANNEL 0u

static inline PyObject *mc_map_value(struct mc_front *front, struct mc_front_entry *entry)
{
    mc_front_hit(front, entry);
    return Py_NewRef(((struct mc_built *)entry->document)->value);
}

/* The value of a key that has no alias in the map: a new reference, or NULL, with *absent set or
 * with an exception. */
PyObject *mc_map_fetch(mc_map_object *self, PyObject *object, bool *absent);

/* The value that is kept for this very key object, if it is right in this reading, or NULL. */
static inline PyObject *mc_map_recall(mc_map_object *self, const struct mc_reading *reading,
                                      PyObject *object)
{
    if (reading->epoch == self->epoch) {
        struct mc_front_entry *entry = mc_front_by_object(&self->front, MC_MAP_CHANNEL, object);
        if (entry != NULL && mc_front_holds(entry, reading->view.root.generation)) {
            return mc_map_value(&self->front, entry);
        }
    }
    return NULL;
}

/* The same for any key. */
static inline PyObject *mc_map_lookup(mc_map_object *self, PyObject *object, bool *absent)
{
    struct mc_reading *reading = mc_collection_reading(self->collection);
    PyObject *value;
    *absent = false;
    if (reading == NULL) {
        return NULL;
    }
    MC_SECTION_BEGIN(self);
    value = mc_map_recall(self, reading, object);
    MC_SECTION_END();
    return value != NULL ? value : mc_map_fetch(self, object, absent);
}

/* What the garbage collector asks of a map's values, and wants done to them. */
int mc_map_visit_values(mc_map_object *self, visitproc visit, void *arg);
void mc_map_drop_values(mc_map_object *self);

/* What a `mc_built` does when it dies. */
void mc_built_dealloc(PyObject *object);

#endif
