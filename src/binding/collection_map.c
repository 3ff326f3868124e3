/* collection_map.c - what a service builds from a document, kept beside it.
 *
 *      map --> front cache of its own --> built --> value         hit: what a get() costs
 *                    |
 *                    +-- none, or of a document that has changed:
 *                        the Document --> function(document) --> value
 *
 * The map's values are entries of a front cache like the reader's (front_cache.h), so they follow
 * generations and snapshots as Documents do: a value is right for as long as the table leads its
 * key to the same offset and birth. Absent keys are not kept: asking for them pushes nothing out.
 *
 * The function runs without anything held: it may read this map, close the cache, take its time
 * while other threads build the same, or fork. Of two values for one document the first one that
 * is there stays, and both callers get it.
 *
 * A value is an object of the service, whose destructor may do anything, and a front cache must not
 * be in the middle of a change then. So what a front cache owns is a `built`, whose death only puts
 * it on the map's list; drain() lets the values go when all is whole.
 *
 * Without a GIL the front cache is used in sections of the map, hits too: all threads have the same
 * values, as a service that builds a connection expects. There a `built` may die later than its
 * map, in the thread that made it. So the list is the thread's, and a `built` that dies outside of
 * any change lets its value go at once.
 */
#include "collection_map.h"

enum { SWEEP = 8 }; /* entries that a read of the file looks at on the way */

/* ---- values ---- */

#if MC_FREE_THREADED

static _Thread_local struct mc_built *thread_dead;
static _Thread_local unsigned thread_changes; /* of front caches, that are going on */

static struct mc_built **dead_of(const mc_map_object *map)
{
    (void)map; /* may be gone */
    return &thread_dead;
}

static void change_begins(void)
{
    thread_changes++;
}

static void change_ends(void)
{
    thread_changes--;
}

static bool is_changing(void)
{
    return thread_changes > 0;
}

#else

static struct mc_built **dead_of(mc_map_object *map)
{
    return &map->dead;
}

static void change_begins(void)
{
}

static void change_ends(void)
{
}

static bool is_changing(void)
{
    return true; /* nothing else drops a `built` */
}

#endif

/* Lets the dead values go: runs whatever their destructors run. */
static void drain(mc_map_object *map)
{
    struct mc_built **dead = dead_of(map);
    while (*dead != NULL) {
        struct mc_built *built = *dead;
        PyObject *value = built->value;
        PyTypeObject *type = Py_TYPE(built);
        *dead = built->next;
        PyObject_Free(built);
        Py_DECREF(type);
        Py_DECREF(value);
    }
}

void mc_built_dealloc(PyObject *object)
{
    struct mc_built *self = (struct mc_built *)object;
    struct mc_built **dead = dead_of(self->map);
    self->next = *dead;
    *dead = self;
    if (!is_changing()) {
        drain(self->map);
    }
}

/* Keeps a value for the document of that fact, unless memory is short or others come first. */
static void keep(mc_map_object *self, const struct mc_key *key, struct mc_front_fact *fact,
                 PyObject *value)
{
    PyTypeObject *type = self->collection->reader->module->built;
    struct mc_built *built = type == NULL ? NULL : PyObject_New(struct mc_built, type);
    if (built == NULL) { /* without a type: the interpreter is ending */
        PyErr_Clear();   /* the caller gets the value all the same */
        return;
    }
    built->value = Py_NewRef(value);
    built->map = self;
    fact->document = (PyObject *)built;
    mc_front_put(&self->front, MC_MAP_CHANNEL, key, fact);
    Py_DECREF(built);
}

/* Keeps what was built, or gives what another thread has kept meanwhile in its place. Within a
 * section. */
static PyObject *first_of(mc_map_object *self, const struct mc_key *key, PyObject *value,
                          uint64_t epoch, struct mc_front_fact *fact)
{
    struct mc_front_entry *entry;
    if (self->epoch != epoch || fact->birth > fact->seen) {
        return value; /* of a file that was left meanwhile, or of one that is lying */
    }
    entry = mc_front_find(&self->front, MC_MAP_CHANNEL, key);
    if (entry != NULL && entry->offset == fact->offset && entry->birth == fact->birth) {
        Py_SETREF(value, mc_map_value(&self->front, entry));
    } else {
        keep(self, key, fact, value);
    }
    return value;
}

/* The value for a document, whose reference this takes; epoch: of its file. NULL with the
 * function's exception. */
static PyObject *build(mc_map_object *self, const struct mc_key *key, PyObject *document,
                       uint64_t epoch, struct mc_front_fact *fact)
{
    PyObject *function = Py_XNewRef(self->function);
    PyObject *value = NULL;
    if (function == NULL) {
        PyErr_SetString(PyExc_ReferenceError, "this map is being destroyed");
    } else {
        value = PyObject_CallOneArg(function, document);
        Py_DECREF(function);
    }
    Py_DECREF(document);
    if (value != NULL) {
        MC_SECTION_BEGIN(self);
        change_begins();
        value = first_of(self, key, value, epoch, fact);
        change_ends();
        MC_SECTION_END();
    }
    return value;
}

/* ---- reading ---- */

/* Looks at some of the values whose generation has passed: those of documents that have changed or
 * gone are dropped, though nobody asks for their keys any more. */
static void sweep(mc_map_object *self, const struct mc_reading *reading)
{
    for (unsigned i = 0; i < SWEEP && self->front.used > 0; i++) {
        struct mc_front_entry *entry;
        self->swept = self->swept + 1 < self->front.used ? self->swept + 1 : 0;
        entry = &self->front.entries[self->swept];
        if (entry->state == MC_FRONT_FREE ||
            mc_collection_holds(self->collection, &self->front, reading, entry)) {
            continue;
        }
        if (!mc_view_valid(&reading->view)) { /* then nothing is known of it */
            return;
        }
        mc_front_forget(&self->front, entry);
    }
}

/* The value that is kept for a key, if it is right in this reading; else NULL, MC_OK, or MC_EXPIRED
 * to try again. */
static PyObject *kept(mc_map_object *self, const struct mc_reading *reading,
                      const struct mc_key *key, PyObject *object, enum mc_status *status)
{
    struct mc_front_entry *entry = mc_front_find(&self->front, MC_MAP_CHANNEL, key);
    if (entry == NULL) {
        return NULL;
    }
    if (mc_front_may_alias(object)) {
        mc_front_set_alias(&self->front, entry, object);
    }
    if (!mc_collection_holds(self->collection, &self->front, reading, entry)) {
        *status = mc_view_settle(&reading->view, MC_OK);
        return NULL;
    }
    return mc_map_value(&self->front, entry);
}

/* One attempt at a key: the value; or NULL with the Document it has to be built from; or NULL with
 * neither. Within a section. */
static PyObject *attempt(mc_map_object *self, struct mc_key *key, PyObject *object,
                         struct mc_front_fact *fact, PyObject **document, enum mc_status *status)
{
    struct mc_reading *reading;
    PyObject *value;
    *status = mc_collection_begin(self->collection, &reading);
    if (*status != MC_OK) {
        return NULL;
    }
    if (reading->epoch != self->epoch) {
        mc_front_clear(&self->front);
        self->epoch = reading->epoch;
        self->swept = 0;
    }
    mc_reading_retain(reading); /* a Document that is let go of may let others read on */
    key->hash = mc_view_hash(&reading->view, key);
    value = kept(self, reading, key, object, status);
    if (value == NULL && *status == MC_OK) {
        *document = mc_collection_document(self->collection, reading, key, fact, status);
    }
    if (*status == MC_ABSENT) {
        struct mc_front_entry *gone = mc_front_find(&self->front, MC_MAP_CHANNEL, key);
        if (gone != NULL) {
            mc_front_forget(&self->front, gone);
        }
    }
    if (*status == MC_OK || *status == MC_ABSENT) {
        sweep(self, reading);
    }
    mc_reading_release(reading);
    return value;
}

PyObject *mc_map_fetch(mc_map_object *self, PyObject *object, bool *absent)
{
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    struct mc_front_fact fact;
    enum mc_status status;
    unsigned tries = 0;
    PyObject *value, *document;
    uint64_t epoch;
    if (!mc_collection_key(self->collection, object, &key, scratch, absent)) {
        return NULL;
    }
    do {
        document = NULL;
        MC_SECTION_BEGIN(self);
        change_begins();
        value = attempt(self, &key, object, &fact, &document, &status);
        epoch = self->epoch;
        change_ends();
        MC_SECTION_END();
        status = mc_collection_judge(self->collection, status, &tries);
    } while (status == MC_EXPIRED);
    if (status == MC_OK && value == NULL) {
        value = build(self, &key, document, epoch, &fact);
    }
    *absent = status == MC_ABSENT;
    drain(self);
    return value;
}

/* ---- the garbage collector ---- */

int mc_map_visit_values(mc_map_object *self, visitproc visit, void *arg)
{
    for (uint32_t i = 0; i < self->front.used; i++) {
        if (self->front.entries[i].state != MC_FRONT_FREE) {
            Py_VISIT(((struct mc_built *)self->front.entries[i].document)->value);
        }
    }
    for (const struct mc_built *dead = MC_FREE_THREADED ? NULL : self->dead; dead != NULL;
         dead = dead->next) {
        Py_VISIT(dead->value);
    }
    return 0;
}

void mc_map_drop_values(mc_map_object *self)
{
    change_begins();
    mc_front_clear(&self->front);
    change_ends();
    drain(self);
}
