/* collection.c - the object Collection, and the steps that every read through one shares. */
#include "collection.h"

#include "arguments.h"
#include "mutant.h"

/* ---- the object ---- */

static mc_collection_object *collection_alloc(struct mc_reader *reader, struct mc_options *options,
                                              PyObject *name, PyObject *codec_options)
{
    mc_collection_object *self = mc_pool_new(&reader->collections, reader->module->collection);
    if (self == NULL) {
        return NULL;
    }
    self->reader = mc_reader_retain(reader);
    self->snapshot = NULL;
    self->options = mc_options_retain(options);
    self->codec_options = Py_XNewRef(codec_options);
    self->name = Py_NewRef(name);
#if !MC_FREE_THREADED
    self->place = (struct mc_place){0};
#endif
    return self;
}

PyObject *mc_collection_new(struct mc_reader *reader, struct mc_options *options, PyObject *name,
                            PyObject *codec_options)
{
    mc_collection_object *self = collection_alloc(reader, options, name, codec_options);
    if (self != NULL) {
        self->channel = mc_count_next(&reader->channels);
    }
    return (PyObject *)self;
}

PyObject *mc_collection_bind(mc_collection_object *live, mc_snapshot_object *snapshot)
{
    mc_collection_object *self =
        collection_alloc(live->reader, live->options, live->name, live->codec_options);
    if (self != NULL) {
        self->snapshot = (mc_snapshot_object *)Py_NewRef((PyObject *)snapshot);
        self->channel = live->channel;
#if !MC_FREE_THREADED
        self->place = live->place;
#endif
    }
    return (PyObject *)self;
}

/* ---- steps ---- */

enum mc_status mc_collection_resolve(mc_collection_object *self, struct mc_reading **reading)
{
    struct mc_place *place = mc_collection_place(self);
    const char *name;
    size_t len;
    int possible = mc_name_sought(self->name, &name, &len);
    if (possible < 0) {
        return MC_CLOSED;
    }
    if (place->channel != self->channel) {
        *place = (struct mc_place){.channel = self->channel};
    }
    if (possible == 0) {
        place->table = (struct mc_collection){0};
        place->serial = (*reading)->serial;
        return MC_OK;
    }
    switch (mc_view_collection(&(*reading)->view, name, len, &place->table)) {
    case MC_OK:
    case MC_ABSENT:
        place->serial = (*reading)->serial;
        mc_vouch_follow(place, mc_reader_front(self->reader), &(*reading)->view, (*reading)->epoch,
                        name, len);
        return MC_OK;
    case MC_EXPIRED:
        place->serial = 0;
        return MC_EXPIRED;
    default:
        place->serial = 0;
        mc_reader_corrupt(self->reader, "its catalogue");
        return MC_CLOSED;
    }
}

/* After MC_EXPIRED: true to try again, false with SnapshotExpired. */
static bool again(mc_collection_object *self, unsigned *tries)
{
    if (self->snapshot == NULL) {
        return mc_reader_again(self->reader, tries);
    }
    mc_raise_text(
        self->reader->module, MC_EXPIRED,
        "the loader reclaimed the snapshot's generation: keep snapshots short, or give the "
        "writer a longer retention or a larger max_size");
    return false;
}

void mc_collection_corrupt(mc_collection_object *self)
{
    PyObject *where = PyUnicode_FromFormat("collection %R", self->name);
    const char *text = where == NULL ? NULL : PyUnicode_AsUTF8(where);
    PyErr_Clear();
    mc_reader_corrupt(self->reader, text == NULL ? "a collection" : text);
    Py_XDECREF(where);
}

enum mc_status mc_collection_judge(mc_collection_object *self, enum mc_status status,
                                   unsigned *tries)
{
    switch (status) {
    case MC_OK:
    case MC_ABSENT:
        return status;
    case MC_EXPIRED:
        return again(self, tries) ? MC_EXPIRED : MC_CLOSED;
    case MC_CLOSED:
    case MC_NOMEM:
        return MC_CLOSED;
    default:
        mc_collection_corrupt(self);
        return MC_CLOSED;
    }
}

enum mc_status mc_collection_ready(mc_collection_object *self, struct mc_reading **reading)
{
    enum mc_status status;
    unsigned tries = 0;
    do {
        status = mc_collection_judge(self, mc_collection_begin(self, reading), &tries);
    } while (status == MC_EXPIRED);
    return status;
}

PyObject *mc_collection_copy(mc_collection_object *self, enum mc_form form,
                             const struct mc_hit *hit)
{
    uint8_t *bytes = NULL;
    PyObject *copy;
    size_t len = hit->value_len;
    if (form == MC_FORM_DOCUMENT) {
        copy = mc_document_new(self->options, len, hit->blocks, &bytes);
        len += (size_t)hit->blocks * MC_BLOCK_BYTES;
    } else {
        copy = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
        bytes = copy == NULL ? NULL : (uint8_t *)PyBytes_AS_STRING(copy);
    }
    if (copy != NULL) {
        mc_copy(bytes, hit->value, len);
    }
    return copy;
}

/* Whether the table of a collection that has changed says of the entry's key what it said. */
static bool is_unchanged(const struct mc_view *view, uint64_t root, bool latest,
                         struct mc_front_entry *entry)
{
    uint64_t hash =
        mc_hash(view->hash_secret, entry->key_type, mc_front_key(entry), entry->key_len);
    uint64_t page = mc_table_page(&view->space, root, hash);
    bool same = page != 0 && page == entry->page && mc_view_kept_since(view, entry->seen);
    if (!same && (entry->document == NULL ||
                  !mc_table_still(&view->space, root, hash, entry->offset, entry->birth))) {
        return false;
    }
    if (latest || entry->page != MC_FRONT_DOUBTED || MC_MUTANT_IS(751)) { /* 751: by whomever */
        entry->page = page;
    }
    return mc_view_settle(view, MC_OK) == MC_OK;
}

/* Whether the reading is the current one, and the front cache was told of nothing after it. */
static bool is_latest(mc_collection_object *self, const struct mc_reading *reading)
{
    return mc_reader_lane(self->reader)->now == reading && mc_collection_knows(self, reading) &&
           (mc_collection_place(self)->to == reading->view.root.generation || MC_MUTANT_IS(752));
    /* 752: as with a GIL, where no reading is after the current one */
}

bool mc_collection_still(mc_collection_object *self, struct mc_front *front,
                         const struct mc_reading *reading, struct mc_front_entry *entry)
{
    const struct mc_view *view = &reading->view;
    const struct mc_place *place = mc_collection_place(self);
    if (!mc_collection_knows(self, reading) || entry->birth > view->root.generation) {
        return false;
    }
    if (entry->seen < place->table.changed) {
        if (front == mc_reader_front(self->reader) &&
            mc_vouch(place, entry, view->root.generation)) {
            entry->page = 0; /* of that generation it is not known */
        } else if (!is_unchanged(view, place->table.root, is_latest(self, reading), entry)) {
            entry->page = MC_MUTANT_IS(750) ? 0 : MC_FRONT_DOUBTED; /* 750: it may have changed */
            return false;
        }
        mc_tick(&front->revalidations, 1);
    }
    entry->seen = view->root.generation;
    return true;
}

struct mc_front_entry *mc_collection_ask(mc_collection_object *self,
                                         const struct mc_reading *reading, PyObject *object,
                                         const struct mc_key *key)
{
    struct mc_front *front = mc_reader_front(self->reader);
    struct mc_front_entry *entry;
    if (!mc_collection_fronted(self, reading)) {
        return NULL;
    }
    entry = mc_front_find(front, self->channel, key);
    if (!mc_collection_holds(self, front, reading, entry)) {
        return NULL;
    }
    if (object != NULL && mc_front_may_alias(object)) {
        mc_front_set_alias(front, entry, object);
    }
    mc_front_hit(front, entry);
    return entry;
}

void mc_collection_remember(mc_collection_object *self, const struct mc_reading *reading,
                            enum mc_form form, const struct mc_key *key, const struct mc_hit *hit,
                            PyObject *found)
{
    uint64_t generation = reading->view.root.generation;
    struct mc_front_fact fact = {
        .birth = generation, .seen = generation, .late = !is_latest(self, reading)};
    if (found != NULL) {
        fact.document = found;
        fact.offset = hit->offset;
        fact.birth = hit->birth;
        fact.bytes = form == MC_FORM_DOCUMENT ? mc_document_memory(found)
                                              : sizeof(PyBytesObject) + hit->value_len;
        if (fact.birth > generation) { /* damaged, or hostile: no use asking about it later */
            return;
        }
    }
    mc_front_put(mc_reader_front(self->reader), mc_collection_channel(self, form), key, &fact);
}

/* Whereby a Document that was found is known again. */
static struct mc_front_fact fact_of(const struct mc_reading *reading, const struct mc_hit *hit)
{
    return (struct mc_front_fact){
        .offset = hit->offset, .birth = hit->birth, .seen = reading->view.root.generation};
}

PyObject *mc_collection_find(mc_collection_object *self, struct mc_reading *reading,
                             struct mc_manner manner, const struct mc_key *key,
                             struct mc_front_fact *fact, enum mc_status *status)
{
    struct mc_front *front = mc_reader_front(self->reader);
    struct mc_hit hit;
    PyObject *found = NULL;
    *status = mc_find(&reading->view, mc_collection_table(self)->root, key, &hit);
    if (*status == MC_OK && hit.value_len < MC_BSON_SIZE_MIN) {
        *status = MC_CORRUPT;
    }
    if (*status == MC_OK) {
        found = mc_collection_copy(self, manner.form, &hit);
        if (found == NULL) {
            *status = MC_NOMEM;
            return NULL;
        }
    }
    *status = mc_view_settle_value(&reading->view, &hit, *status);
    if (*status == MC_EXPIRED) {
        Py_CLEAR(found);
    } else if (manner.asks && front->max_entries != 0 && *status != MC_CORRUPT) {
        mc_front_missed(front, 1);
        if (mc_collection_fronted(self, reading)) {
            mc_collection_remember(self, reading, manner.form, key, &hit, found);
        }
    }
    if (found != NULL && fact != NULL) {
        *fact = fact_of(reading, &hit);
    }
    return found;
}

PyObject *mc_collection_document(mc_collection_object *self, struct mc_reading *reading,
                                 const struct mc_key *key, struct mc_front_fact *fact,
                                 enum mc_status *status)
{
    static const struct mc_manner as_document = {.form = MC_FORM_DOCUMENT, .asks = true};
    struct mc_front_entry *entry = mc_collection_ask(self, reading, NULL, key);
    if (entry == NULL) {
        return mc_collection_find(self, reading, as_document, key, fact, status);
    }
    *status = entry->document == NULL ? MC_ABSENT : MC_OK;
    if (entry->document != NULL && fact != NULL) { /* it may have moved since the entry was made */
        struct mc_hit hit;
        *status = mc_find(&reading->view, mc_collection_table(self)->root, key, &hit);
        *status = mc_view_settle(&reading->view, *status);
        if (*status != MC_OK) {
            return NULL;
        }
        *fact = fact_of(reading, &hit);
    }
    return Py_XNewRef(entry->document);
}

int mc_collection_has(mc_collection_object *self, struct mc_key *key)
{
    enum mc_status status;
    unsigned tries = 0;
    do {
        struct mc_reading *reading;
        struct mc_hit hit;
        status = mc_collection_begin(self, &reading);
        if (status == MC_OK) {
            key->hash = mc_view_hash(&reading->view, key);
            status = mc_find(&reading->view, mc_collection_table(self)->root, key, &hit);
            status = mc_view_settle(&reading->view, status);
        }
        status = mc_collection_judge(self, status, &tries);
    } while (status == MC_EXPIRED);
    return status == MC_OK ? 1 : status == MC_ABSENT ? 0 : -1;
}
