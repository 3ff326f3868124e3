/* front_cache.c - growing, finding, taking in, turning away (front_cache.h has the picture).
 *
 * Destroying a document or a key object may in principle run foreign code that comes back here, so
 * each function first brings the structure into a whole state and drops references last.
 */
#include "front_cache.h"

#include <string.h>

#include "mutant.h"

#define FIRST_CAPACITY 64u
#define DOOR_SHARE 8u /* a document may take 1/8 of max_bytes, larger ones are never kept */

void mc_front_init(struct mc_front *front, uint64_t max_bytes, uint32_t max_entries)
{
    *front = (struct mc_front){.max_bytes = max_bytes, .max_entries = max_entries};
    if (max_bytes == 0) {
        front->max_entries = 0;
    }
    front->max_free = max_bytes == UINT64_MAX ? max_bytes : max_bytes / MC_FRONT_FREE_SHARE;
    if (front->max_free < MC_FRONT_FREE_LEAST) {
        front->max_free = max_bytes < MC_FRONT_FREE_LEAST ? max_bytes : MC_FRONT_FREE_LEAST;
    }
}

/* memcmp() == 0 for what most keys are: some words long. */
static bool same_bytes(const uint8_t *left, const uint8_t *right, size_t len)
{
    uint64_t a, b;
    size_t done = 0;
    if (len < sizeof a) {
        return memcmp(left, right, len) == 0;
    }
    for (; done + sizeof a < len; done += sizeof a) {
        memcpy(&a, left + done, sizeof a);
        memcpy(&b, right + done, sizeof b);
        if (a != b) {
            return false;
        }
    }
    memcpy(&a, left + len - sizeof a, sizeof a); /* the last word may overlap the one before */
    memcpy(&b, right + len - sizeof b, sizeof b);
    return a == b;
}

struct mc_front_entry *mc_front_find(const struct mc_front *front, uint32_t channel,
                                     const struct mc_key *key)
{
    uint32_t hash = mc_front_hash(key, channel);
    if (front->count == 0) {
        return NULL;
    }
    for (uint32_t i = hash & front->mask; front->slots[i] != 0; i = (i + 1) & front->mask) {
        if ((uint32_t)(front->slots[i] >> 32) == hash) {
            struct mc_front_entry *entry = &front->entries[(uint32_t)front->slots[i] - 1];
            if (entry->channel == channel && entry->key_type == key->type &&
                entry->key_len == key->len &&
                same_bytes(mc_front_key(entry), key->data, key->len)) {
                return entry;
            }
        }
    }
    return NULL;
}

static void index_add(struct mc_front *front, uint32_t hash, uint32_t index)
{
    uint32_t i = hash & front->mask;
    while (front->slots[i] != 0) {
        i = (i + 1) & front->mask;
    }
    front->slots[i] = (uint64_t)hash << 32 | (index + 1);
}

/* Takes a slot out and moves back those behind it that would not be found any more. */
static void index_remove(struct mc_front *front, uint32_t hash, uint32_t index)
{
    uint32_t hole = hash & front->mask;
    while ((uint32_t)front->slots[hole] != index + 1) {
        hole = (hole + 1) & front->mask;
    }
    for (uint32_t i = (hole + 1) & front->mask; front->slots[i] != 0; i = (i + 1) & front->mask) {
        uint32_t home = (uint32_t)(front->slots[i] >> 32) & front->mask;
        if (((i - home) & front->mask) >= ((i - hole) & front->mask)) {
            front->slots[hole] = front->slots[i];
            hole = i;
        }
    }
    front->slots[hole] = 0;
}

static void free_add(struct mc_front *front, uint32_t index)
{
    front->entries[index] =
        (struct mc_front_entry){.state = MC_FRONT_FREE, .offset = front->free_list};
    front->free_list = index + 1;
}

void mc_front_forget(struct mc_front *front, struct mc_front_entry *entry)
{
    uint32_t index = (uint32_t)(entry - front->entries);
    PyObject *document = entry->document;
    PyObject *alias = entry->alias;
    index_remove(front, entry->hash, index);
    if (entry->key_len > MC_FRONT_NEAR) {
        PyMem_Free(entry->key.far);
    }
    mc_poke(&front->bytes, front->bytes - entry->charge);
    mc_poke(&front->count, front->count - 1);
    free_add(front, index);
    Py_XDECREF(document);
    Py_XDECREF(alias);
}

void mc_front_clear(struct mc_front *front)
{
    struct mc_front old = *front;
    mc_poke(&front->count, 0);
    mc_poke(&front->bytes, 0);
    front->capacity = front->used = front->free_list = front->hand = 0;
    front->entries = NULL;
    front->slots = front->aliases = front->door = NULL;
    front->worth = front->unasked = 0;
    front->told++;
    for (uint32_t i = 0; i < old.used; i++) {
        struct mc_front_entry *entry = &old.entries[i];
        if (entry->state != MC_FRONT_FREE) {
            if (entry->key_len > MC_FRONT_NEAR) {
                PyMem_Free(entry->key.far);
            }
            Py_XDECREF(entry->document);
            Py_XDECREF(entry->alias);
        }
    }
    PyMem_Free(old.entries);
    PyMem_Free(old.slots);
    PyMem_Free(old.aliases);
    PyMem_Free(old.door);
}

void mc_front_add(struct mc_front *sum, const struct mc_front *front)
{
    sum->count += mc_peek(&front->count);
    sum->bytes += mc_peek(&front->bytes);
    sum->hits += mc_peek(&front->hits);
    sum->misses += mc_peek(&front->misses);
    sum->revalidations += mc_peek(&front->revalidations);
    sum->evictions += mc_peek(&front->evictions);
}

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t size = 1;
    while (size < at_least) {
        size *= 2;
    }
    return size;
}

/* Makes the entry's alias the first guess at its place; the oldest guess there is forgotten. */
static void alias_add(struct mc_front *front, const struct mc_front_entry *entry, uint32_t index)
{
    uint64_t *set = &front->aliases[mc_front_alias_set(front, entry->channel, entry->alias)];
    uint64_t moving = (uint64_t)mc_front_alias_tag(entry->channel, entry->alias) << 32 | index;
    for (unsigned way = 0; way < MC_FRONT_WAYS; way++) {
        uint64_t old = set[way];
        set[way] = moving;
        if ((uint32_t)old == index || old == 0) {
            break;
        }
        moving = old;
    }
}

/* Room for more entries, up to max_entries: false when memory is short, and nothing changed. */
static bool grow(struct mc_front *front)
{
    uint64_t capacity = front->capacity == 0 ? FIRST_CAPACITY : 2ull * front->capacity;
    uint32_t length;
    uint64_t *slots;
    uint64_t *aliases;
    struct mc_front_entry *entries;
    capacity = capacity > front->max_entries ? front->max_entries : capacity;
    length = power_of_two((uint32_t)capacity * 2);
    slots = PyMem_Calloc(length, sizeof *slots);
    aliases = PyMem_Calloc((size_t)2 * length, sizeof *aliases);
    entries = slots == NULL || aliases == NULL
                  ? NULL
                  : PyMem_Realloc(front->entries, capacity * sizeof *entries);
    if (entries == NULL) {
        PyMem_Free(slots);
        PyMem_Free(aliases);
        return false;
    }
    PyMem_Free(front->slots);
    PyMem_Free(front->aliases);
    front->entries = entries;
    front->slots = slots;
    front->aliases = aliases;
    front->mask = length - 1;
    front->alias_mask = 2 * length - MC_FRONT_WAYS;
    front->capacity = (uint32_t)capacity;
    for (uint32_t i = 0; i < front->used; i++) {
        struct mc_front_entry *entry = &entries[i];
        if (entry->state != MC_FRONT_FREE) {
            index_add(front, entry->hash, i);
            if (entry->alias != NULL) {
                alias_add(front, entry, i + 1);
            }
        }
    }
    return true;
}

/* CLOCK: frees the first entry from the hand on that was not read since the hand last passed. */
static void evict(struct mc_front *front)
{
    for (;;) {
        struct mc_front_entry *entry;
        front->hand = front->hand + 1 < front->used ? front->hand + 1 : 0;
        entry = &front->entries[front->hand];
        if (entry->state == MC_FRONT_VISITED) {
            entry->state = MC_FRONT_USED;
        } else if (entry->state == MC_FRONT_USED) {
            mc_tick(&front->evictions, 1);
            mc_front_forget(front, entry);
            return;
        }
    }
}

/* The door, with a tag for twice as many keys as there may be entries: false without memory. */
static bool has_door(struct mc_front *front)
{
    uint64_t most = front->max_bytes / sizeof(struct mc_front_entry);
    uint32_t length;
    if (front->door == NULL) {
        most = most < front->max_entries ? most : front->max_entries;
        length = power_of_two((uint32_t)most * 2 / MC_FRONT_TAGS);
        front->door = PyMem_Calloc(length, sizeof *front->door);
        front->door_mask = length - 1;
    }
    return front->door != NULL;
}

/* True on a key's second visit among the latest ones, and while there is little. */
static bool admit(struct mc_front *front, uint32_t hash, size_t charge)
{
    uint64_t *place;
    uint64_t tag = hash >> 16 | 1;
    unsigned turn;
    if (charge > front->max_bytes / DOOR_SHARE) {
        return false;
    }
    if (front->count < front->max_entries && front->bytes + charge <= front->max_free) {
        return true;
    }
    if (!has_door(front)) {
        return true;
    }
    place = &front->door[hash & front->door_mask];
    for (unsigned i = 0; i < MC_FRONT_TAGS; i++) {
        if ((*place >> (16 * i) & 0xFFFF) == tag) {
            return true; /* a tag that stays behind is replaced some day */
        }
    }
    turn = 16 * (unsigned)(front->misses * 0x9E3779B97F4A7C15ull >> 62);
    *place = (*place & ~(UINT64_C(0xFFFF) << turn)) | tag << turn;
    return false;
}

/* The index of an entry to fill, after making room: false when memory is short. */
static bool take(struct mc_front *front, size_t charge, uint32_t *index)
{
    while (front->count > 0 &&
           (front->count >= front->max_entries || front->bytes + charge > front->max_bytes)) {
        evict(front);
    }
    if (front->free_list != 0) {
        *index = front->free_list - 1;
        front->free_list = (uint32_t)front->entries[*index].offset;
        return true;
    }
    if (front->used == front->capacity && !grow(front)) {
        return false;
    }
    *index = front->used++;
    return true;
}

/* What is known of the page in the beginning. */
static uint64_t page_of(const struct mc_front_fact *fact)
{
    bool late = fact->late && !MC_MUTANT_IS(740); /* 740: what is old is believed */
    return late ? MC_FRONT_DOUBTED : 0;
}

/* Whether what was let go of to make room has read on, and so knows better: it found this key, or
 * was told of changes since. */
static bool is_outrun(const struct mc_front *front, uint32_t channel, const struct mc_key *key,
                      uint32_t told)
{
    return (front->told != told && !MC_MUTANT_IS(741)) || /* 741: that is no matter */
           (mc_front_find(front, channel, key) != NULL && !MC_MUTANT_IS(742)); /* 742: nor that */
}

static void add(struct mc_front *front, uint32_t channel, const struct mc_key *key,
                const struct mc_front_fact *fact, size_t charge, uint32_t told)
{
    struct mc_front_entry *entry;
    uint8_t *far = NULL;
    uint32_t index;
    if (key->len > MC_FRONT_NEAR) {
        far = PyMem_Malloc(key->len);
        if (far == NULL) {
            return;
        }
        memcpy(far, key->data, key->len);
    }
    if (!take(front, charge, &index)) {
        PyMem_Free(far);
        return;
    }
    if (is_outrun(front, channel, key, told)) {
        free_add(front, index);
        PyMem_Free(far);
        return;
    }
    entry = &front->entries[index];
    *entry = (struct mc_front_entry){
        .document = fact->document,
        .birth = fact->birth,
        .seen = fact->seen,
        .offset = fact->offset,
        .page = page_of(fact),
        .hash = mc_front_hash(key, channel),
        .channel = channel,
        .charge = (uint32_t)charge,
        .key_len = key->len,
        .key_type = key->type,
        .state = MC_FRONT_USED,
    };
    if (far != NULL) {
        entry->key.far = far;
    } else {
        memcpy(entry->key.near, key->data, key->len);
    }
    Py_XINCREF(fact->document);
    mc_tick(&front->bytes, charge);
    mc_tick(&front->count, 1);
    index_add(front, entry->hash, index);
}

void mc_front_put(struct mc_front *front, uint32_t channel, const struct mc_key *key,
                  const struct mc_front_fact *fact)
{
    struct mc_front_entry *entry;
    uint32_t told = front->told;
    size_t charge = sizeof *entry + sizeof *front->slots + fact->bytes +
                    (key->len > MC_FRONT_NEAR ? key->len : 0);
    if (front->max_entries == 0) {
        return;
    }
    entry = mc_front_find(front, channel, key);
    if (entry != NULL) {
        if (entry->seen > fact->seen) { /* an old snapshot's answer: others need the newer one */
            return;
        }
        if (charge <= entry->charge && (entry->document == NULL) == (fact->document == NULL)) {
            PyObject *old = entry->document;
            entry->document = Py_XNewRef(fact->document);
            entry->offset = fact->offset;
            entry->page = page_of(fact);
            entry->birth = fact->birth;
            entry->seen = fact->seen;
            Py_XDECREF(old);
            return;
        }
        mc_front_forget(front, entry);
        if (charge <= front->max_bytes / DOOR_SHARE) {
            add(front, channel, key, fact, charge, told);
        }
        return;
    }
    if (admit(front, mc_front_hash(key, channel), charge)) {
        add(front, channel, key, fact, charge, told);
    }
}

void mc_front_set_alias(struct mc_front *front, struct mc_front_entry *entry, PyObject *object)
{
    PyObject *old = entry->alias;
    entry->alias = Py_NewRef(object);
    alias_add(front, entry, (uint32_t)(entry - front->entries) + 1);
    Py_XDECREF(old);
}
