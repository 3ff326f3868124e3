/* changes.c - what the open batch changed, and how it gets into the change log.
 *
 *   collection  first_note ---> [next|record] ---> [next|record] ---> ... <--- last_note
 *
 * Notes are records as the log will have them, one after the other in private memory and linked for
 * each collection, so that at the commit each collection's name is written once. They are bounded:
 * a batch has at most half of the log, a collection at most a quarter of it. One that changes more
 * is said to have changed as a whole, from then on costs a comparison for each key, and gives its
 * room back when it was the last to ask for some; a group that is still too large says that
 * everything may have changed. Want of memory is dealt with in the same way, so that no commit
 * fails for the log.
 */
#include "changes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "change_log.h"
#include "mutant.h"

#define LOG_SHIFT 10 /* the log has a 1024th of the file, */
#define LOG_LEAST (64u << 10)
#define LOG_MOST (1u << 20)
#define NOTES_LEAST 1024u /* bytes: the first allocation */

struct note {
    uint32_t next; /* place of the next one of this collection, plus one; 0: none */
    struct mc_log_record record;
    /* record.len bytes of key */
};

uint32_t mc_changes_log_size(uint64_t max_size, uint32_t asked)
{
    uint32_t size = LOG_LEAST;
    if (asked != 0) {
        return asked;
    }
    while (size < LOG_MOST && size * UINT64_C(2) <= max_size >> LOG_SHIFT) {
        size *= 2;
    }
    return size;
}

static uint64_t whole_words(uint64_t bytes)
{
    return (bytes + MC_LOG_ALIGN - 1) / MC_LOG_ALIGN * MC_LOG_ALIGN;
}

/* ---- where the log goes on ---- */

void mc_changes_restart(struct mc_writer *writer)
{
    const struct mc_space *space = &writer->table.space;
    uint64_t announced = mc_log_announced(space), end = writer->root.log_end;
    uint32_t size = writer->superblock.log_size;
    if (size == 0) {
        return;
    }
    /* A ring further on, so that all that was logged is out of reach; also where a machine failed
     * that had written the root to the disk, and not what was announced before. */
    bool behind = (int64_t)(end - announced) > 0 && !MC_MUTANT_IS(657); /* 657: it is in reach */
    writer->notes.end = whole_words(behind ? end : announced) + size;
    writer->notes.last = 0;
    assert(writer->notes.end % MC_LOG_ALIGN == 0);
    mc_log_announce(space, writer->notes.end);
}

void mc_changes_recover(struct mc_writer *writer)
{
    const struct mc_space *space = &writer->table.space;
    const struct mc_root *root = &writer->root;
    struct mc_log log = mc_superblock_log(&writer->superblock);
    struct mc_log_group group = {0};
    /* A killed loader had announced one group that its root does not know. */
    bool sound = root->log_end % MC_LOG_ALIGN == 0 && !mc_log_is_odd(root->log_last) &&
                 root->log_last <= log.size / 2 &&
                 mc_log_announced(space) - root->log_end <= log.size / 2;
    if (sound) {
        mc_log_read(space, &log, root->log_end - root->log_last, &group, sizeof group);
        sound = group.bytes == root->log_last && group.generation <= root->generation;
    }
    writer->notes.end = root->log_end;
    writer->notes.last = root->log_last;
    if (!sound && !MC_MUTANT_IS(654)) { /* 654: whatever the root says */
        mc_changes_restart(writer);
    }
}

/* ---- noting ---- */

/* Makes room for so many bytes more. */
static bool make_room(struct mc_notes *notes, size_t bytes, size_t most)
{
    if (notes->used + bytes > most) {
        return false;
    }
    if (notes->used + bytes > notes->capacity) {
        size_t capacity = notes->capacity == 0 ? NOTES_LEAST : notes->capacity * 2;
        while (capacity < notes->used + bytes) {
            capacity *= 2;
        }
        uint8_t *bigger = realloc(notes->bytes, capacity);
        if (bigger == NULL) {
            return false;
        }
        notes->bytes = bigger;
        notes->capacity = capacity;
    }
    return true;
}

/* Lets the note at `place`, plus one, be the next of `previous`, plus one. */
static void link_note(struct mc_notes *notes, uint32_t previous, uint32_t place)
{
    assert(previous > 0 && previous - 1 + sizeof(struct note) <= notes->used);
    memcpy(notes->bytes + previous - 1 + offsetof(struct note, next), &place, sizeof place);
}

void mc_changes_whole(struct mc_writer *writer, struct mc_writer_collection *collection)
{
    struct mc_notes *notes = &writer->notes;
    if (collection->noted > 0 && collection->first_note - 1 + collection->noted == notes->used) {
        notes->used = collection->first_note - 1; /* all that was noted since was its own */
    }
    collection->whole = !MC_MUTANT_IS(656); /* 656: what was too much is forgotten */
    collection->first_note = collection->last_note = collection->noted = 0;
}

/* Asks for the lines that a small group will be written to: the ring is larger than what caches
 * keep of it, and a commit need not wait for them. */
static void prefetch_end(const struct mc_writer *writer)
{
    struct mc_log log = mc_superblock_log(&writer->superblock);
    const shm_byte *ring = writer->table.space.base + log.offset;
    shm_prefetch_store(ring + (writer->notes.end & (log.size - 1)));
    shm_prefetch_store(ring + ((writer->notes.end + MC_LINE_BYTES) & (log.size - 1)));
}

void mc_changes_note(struct mc_writer *writer, struct mc_writer_collection *collection,
                     uint8_t kind, const struct mc_key *key)
{
    struct mc_notes *notes = &writer->notes;
    uint32_t size = writer->superblock.log_size;
    struct note note = {.record = {.kind = kind, .type = key->type, .len = key->len}};
    size_t bytes = sizeof note + key->len;
    assert(writer->batch.open && collection->listed); /* the batch's end finds its notes */
    if (collection->whole) {
        return;
    }
    if (collection->noted + bytes > size / 4 || !make_room(notes, bytes, size / 2)) {
        mc_changes_whole(writer, collection);
        return;
    }
    if (notes->used == 0) {
        prefetch_end(writer);
    }
    assert(notes->used + bytes <= notes->capacity);
    assert((collection->first_note == 0) == (collection->last_note == 0));
    uint32_t place = (uint32_t)notes->used + 1;
    memcpy(notes->bytes + notes->used, &note, sizeof note);
    memcpy(notes->bytes + notes->used + sizeof note, key->data, key->len);
    if (collection->last_note != 0) {
        link_note(notes, collection->last_note, place);
    } else {
        collection->first_note = place;
    }
    collection->last_note = place;
    collection->noted += (uint32_t)bytes;
    notes->used += bytes;
}

bool mc_changes_noted(const struct mc_writer *writer, uint32_t *place, struct mc_key *key)
{
    struct note note;
    if (*place == 0) {
        return false;
    }
    const uint8_t *from = writer->notes.bytes + *place - 1;
    assert(*place - 1 + sizeof note <= writer->notes.used);
    memcpy(&note, from, sizeof note);
    key->type = note.record.type;
    key->len = note.record.len;
    key->data = from + sizeof note;
    *place = note.next;
    return true;
}

void mc_changes_take_back(struct mc_writer *writer, struct mc_writer_collection *collection,
                          const struct mc_writer_collection *before)
{
    if (MC_MUTANT_IS(652)) { /* 652: what was taken back is logged */
        return;
    }
    if (collection->whole && before->noted > 0) {
        return; /* the notes from before are gone */
    }
    collection->whole = before->whole;
    collection->first_note = before->first_note;
    collection->last_note = before->last_note;
    collection->noted = before->noted;
    if (before->last_note != 0) {
        link_note(&writer->notes, before->last_note, 0);
    }
}

void mc_changes_forget(struct mc_writer *writer)
{
    writer->notes.used = 0;
}

void mc_changes_destroy(struct mc_writer *writer)
{
    free(writer->notes.bytes);
    free(writer->notes.group);
}

/* ---- logging ---- */

/* Whether a changed collection is said to have changed as a whole, and whether at all. */
static bool is_whole(const struct mc_writer_collection *collection)
{
    bool appeared = collection->exists && !collection->committed_exists;
    bool there = collection->exists || collection->committed_exists;
    return there && (collection->whole || (appeared && collection->noted == 0));
}

static bool is_noted(const struct mc_writer_collection *collection)
{
    return collection->noted > 0 || is_whole(collection);
}

/* Adds a collection to a group: its name, and its records. */
static uint8_t *add_collection(const struct mc_notes *notes,
                               const struct mc_writer_collection *collection, uint8_t *to)
{
    struct mc_log_record record = {
        .kind = is_whole(collection) ? MC_LOG_WHOLE : MC_LOG_COLLECTION,
        .type = MC_KEY_NAME,
        .len = collection->name_len,
    };
    memcpy(to, &record, sizeof record);
    memcpy(to + sizeof record, collection->name, record.len);
    to += sizeof record + record.len;
    for (uint32_t place = collection->first_note; place != 0;) {
        const uint8_t *from = notes->bytes + place - 1;
        struct note note;
        memcpy(&note, from, sizeof note);
        size_t bytes = sizeof note.record + note.record.len;
        memcpy(to, from + offsetof(struct note, record), bytes);
        to += bytes;
        place = note.next;
    }
    return to;
}

/* Makes sure that the group being made has room for so many bytes. */
static bool reserve_group(struct mc_notes *notes, size_t bytes, size_t most)
{
    if (bytes <= notes->group_capacity) {
        return true;
    }
    void *bigger = bytes <= most ? realloc(notes->group, bytes) : NULL;
    if (bigger == NULL) {
        return false;
    }
    notes->group = bigger;
    notes->group_capacity = bytes;
    return true;
}

/* Makes a group of what was noted: its length, that of a header when nothing was, or 0 when it was
 * too much or there is no memory for it. */
static size_t make_group(struct mc_writer *writer)
{
    const struct mc_writer_collection *items = writer->collections.items;
    struct mc_notes *notes = &writer->notes;
    size_t size = writer->superblock.log_size, len = sizeof(struct mc_log_group);
    for (uint32_t at = writer->batch.listed; at != 0; at = items[at - 1].next_listed) {
        const struct mc_writer_collection *collection = &items[at - 1];
        size_t more = sizeof(struct mc_log_record) + collection->name_len + collection->noted;
        if (!is_noted(collection)) {
            continue;
        }
        if (!reserve_group(notes, len + more + MC_LOG_ALIGN, size)) {
            return 0;
        }
        uint8_t *start = (uint8_t *)notes->group;
        len = (size_t)(add_collection(notes, collection, start + len) - start);
        assert(len + MC_LOG_ALIGN <= notes->group_capacity); /* as much as was reserved */
        memset(start + len, 0, MC_LOG_ALIGN); /* what fills it up, should it be the last */
    }
    len = (size_t)whole_words(len);
    return len <= size / 2 ? len : 0;
}

/* Puts a group behind the last one. */
static void append(struct mc_writer *writer, struct mc_log_group *group)
{
    const struct mc_space *space = &writer->table.space;
    struct mc_log log = mc_superblock_log(&writer->superblock);
    struct mc_notes *notes = &writer->notes;
    const uint8_t *bytes = (const uint8_t *)group;
    assert(notes->end % MC_LOG_ALIGN == 0 && group->bytes % MC_LOG_ALIGN == 0);
    assert(group->bytes >= sizeof *group && group->bytes <= log.size / 2);
    group->checksum = mc_checksum(bytes + sizeof group->checksum, /* of all that is behind it */
                                  group->bytes - sizeof group->checksum);
    if (!MC_MUTANT_IS(650)) { /* 650: announced when it has been written */
        mc_log_announce(space, notes->end + group->bytes);
    }
    mc_log_write(space, &log, notes->end, group, group->bytes);
    if (MC_MUTANT_IS(650)) {
        mc_log_announce(space, notes->end + group->bytes);
    }
    notes->end += group->bytes;
    notes->last = group->bytes;
}

void mc_changes_log(struct mc_writer *writer, struct mc_root *root)
{
    struct mc_notes *notes = &writer->notes;
    struct mc_log_group all = {.flags = MC_LOG_ALL}, *group = &all;
    if (writer->superblock.log_size == 0) {
        return;
    }
    size_t len = notes->last != 0 ? make_group(writer) : 0;
    if (len > sizeof all) {
        group = notes->group;
        group->flags = 0;
    }
    if (len != sizeof all) { /* something is to be said */
        group->bytes = (uint32_t)(len != 0 ? len : sizeof all);
        group->generation = root->generation;
        group->before = notes->last;
        append(writer, group);
    }
    if (!MC_MUTANT_IS(651)) { /* 651: the root does not know */
        root->log_end = notes->end;
        root->log_last = notes->last;
    }
}
