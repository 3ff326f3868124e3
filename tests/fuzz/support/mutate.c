/* mutate.c - see mutate.h. */
#include "mutate.h"

#include <string.h>

#include "change_log.h"
#include "harness.h"
#include "hash.h"
#include "image.h"
#include "index.h"
#include "store.h"
#include "table_ref.h"

/* What is made right again. */
struct mending {
    bool entries; /* their checksums */
    bool counts;  /* of collections and of the root */
    bool tags;    /* each slot's, by the key that it leads to */
};

static uint64_t draw_state;

static uint64_t draw(uint64_t bound)
{
    uint64_t z = (draw_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % bound;
}

/* The words that something refers to, and those of them that are references to tables. */
#define PLACES_MOST 4096u

struct places {
    uint32_t at[PLACES_MOST];
    unsigned count;
};

static struct places words, references;

static uint64_t used_end;   /* nothing that was found ends behind it */
static uint64_t last_entry; /* where the hindmost is; 0: there is none */

static void add_place(struct places *places, uint64_t at)
{
    if (places->count < PLACES_MOST && at + 8 <= IMAGE_MOST) {
        places->at[places->count++] = (uint32_t)at;
    }
}

static void add_words(uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset & ~UINT64_C(7); at < offset + bytes; at += 8) {
        add_place(&words, at);
    }
    used_end = offset + bytes > used_end ? offset + bytes : used_end;
}

static uint64_t drawn(const struct places *places)
{
    return places->at[draw(places->count)];
}

/* ---- making things right ---- */

/* True when these bytes are the image's and not the header's, which is right already: a hostile
 * reference may lead there, and what is mended there would undo it. */
static bool in_arena(const uint8_t *image, uint64_t offset, uint64_t bytes)
{
    const struct mc_superblock *superblock = (const struct mc_superblock *)(const void *)image;
    return offset >= superblock->arena_offset && offset + bytes <= IMAGE_MOST;
}

/* The checksum of an entry that the walk has just come to and, when asked, its slot's tag. */
static void mend_entry(uint8_t *image, const struct mc_walk *walk, const struct mc_hit *hit,
                       struct mending mending)
{
    const struct mc_superblock *superblock = (const struct mc_superblock *)(const void *)image;
    const struct mc_walk_level *page = &walk->levels[walk->depth];
    uint64_t slot, slot_at = ref_offset(page->ref) + 8 * ((uint64_t)page->index - 2);
    struct mc_entry entry;
    const uint8_t *key = image + hit->offset + sizeof entry;
    if (!in_arena(image, hit->offset, sizeof entry) || !in_arena(image, slot_at, sizeof slot)) {
        return;
    }
    if (mending.entries && (hit->value_len <= IMAGE_MOST || draw(4) == 0)) { /* slow else */
        memcpy(&entry, image + hit->offset, sizeof entry);
        entry.checksum = mc_hit_checksum(hit, entry.stamp, key);
        memcpy(image + hit->offset, &entry, sizeof entry);
    }
    if (mending.tags) {
        slot =
            slot_make(hash_tag(mc_hash(superblock->hash_secret, hit->key_type, key, hit->key_len)),
                      hit->offset);
        memcpy(image + slot_at, &slot, sizeof slot);
    }
}

/* What a root says of its generation, and each record of its tables. */
struct totals {
    uint64_t used, documents, content, collections;
    uint64_t pairs; /* of the indexes */
};

/* Of all tables: more than an image holds, but tables may meet. */
#define ENTRIES_MOST 4096u

static unsigned entries_seen;

static void mend_record(uint8_t *image, uint64_t at, uint64_t first, uint64_t second)
{
    if (in_arena(image, at, 16)) {
        memcpy(image + at, &first, 8);
        memcpy(image + at + 8, &second, 8);
    }
}

static uint64_t mend_table(uint8_t *image, uint64_t root, struct totals *totals,
                           struct mending mending, enum mc_table kind);

/* The table below an entry, if there is one, and what the entry says of it. */
static void mend_below(uint8_t *image, const struct mc_hit *hit, struct totals *totals,
                       struct mending mending, enum mc_table kind)
{
    uint64_t record = hit->offset + sizeof(struct mc_entry) + hit->key_len, root;
    enum mc_table below;
    enum mc_status status = mc_hit_table(kind, hit, &root, &below);
    uint64_t content = totals->content, pairs = totals->pairs;
    if (status != MC_OK) {
        totals->pairs += kind == MC_TABLE_INDEX; /* one document's key */
        return;
    }
    uint64_t count = mend_table(image, root, totals, mending, below);
    if (kind == MC_TABLE_INDEX) {
        totals->pairs += count;
        add_place(&references, record + offsetof(struct mc_index_keys, root));
        record += offsetof(struct mc_index_keys, count);
        if (mending.counts && in_arena(image, record, sizeof count)) {
            memcpy(image + record, &count, sizeof count);
        }
        return;
    }
    add_place(&references, record);
    if (below == MC_TABLE_INDEX) {
        totals->content = content;
        if (mending.counts) {
            mend_record(image, record + offsetof(struct mc_index_record, values), count,
                        totals->pairs - pairs);
        }
        return;
    }
    totals->collections++;
    totals->documents += count;
    if (mending.counts) {
        mend_record(image, record + offsetof(struct mc_collection_record, count), count,
                    totals->content - content);
    }
}

/* Goes through a table: notes its words, and makes entries right, and counts of what is below. */
static uint64_t mend_table(uint8_t *image, uint64_t root, struct totals *totals,
                           struct mending mending, enum mc_table kind)
{
    struct mc_space space = {.base = (shm_byte *)image, .limit = IMAGE_BYTES};
    struct mc_walk walk;
    struct mc_item item;
    uint64_t entries = 0;
    mc_walk_begin(&walk, &space, root);
    while (mc_walk_next(&walk, &item) == MC_OK && entries_seen < ENTRIES_MOST) {
        totals->used += (item.bytes + 15) / 16 * 16;
        if (item.kind != MC_ITEM_ENTRY) {
            add_words(item.offset, item.bytes);
            for (uint64_t i = 0; item.kind == MC_ITEM_NODE && i < item.bytes; i += 8) {
                add_place(&references, item.offset + i);
            }
            continue;
        }
        entries++;
        entries_seen++;
        last_entry = item.offset > last_entry ? item.offset : last_entry;
        add_words(item.offset, item.bytes < 64 ? item.bytes : 64);
        mend_below(image, &item.hit, totals, mending, kind);
        if (kind == MC_TABLE_PLAIN) { /* its collection's, or nothing's: see mend_below */
            totals->content += (uint64_t)item.hit.key_len + item.hit.value_len;
        }
        mend_entry(image, &walk, &item.hit, mending);
    }
    return entries;
}

#define LOG_MOST (16u << 10) /* bytes: what an image has room for beside a table */

#define HISTORY_MOST 16u /* records, likewise */

/* Roots, change log, history and arena, one behind the other. */
static void mend_places(struct mc_superblock *superblock)
{
    uint64_t roots_end = MC_RING_OFFSET + (uint64_t)superblock->ring_slots * sizeof(struct mc_root);
    uint32_t size = superblock->log_size;
    if (size < MC_LOG_MIN || size > LOG_MOST || (size & (size - 1)) != 0) {
        size = 0;
    }
    superblock->log_size = size;
    superblock->log_offset = size != 0 ? roots_end : 0;
    if (superblock->history_slots > HISTORY_MOST) {
        superblock->history_slots = 0;
    }
    superblock->history_offset = superblock->history_slots != 0 ? roots_end + size : 0;
    superblock->arena_offset =
        roots_end + size + superblock->history_slots * sizeof(struct mc_round_record);
}

/* The checksums of the records of the history, and where their words are. */
static void mend_history(uint8_t *image)
{
    const struct mc_superblock *superblock = (const struct mc_superblock *)(const void *)image;
    for (uint32_t slot = 0; slot < superblock->history_slots; slot++) {
        uint64_t at = superblock->history_offset + slot * sizeof(struct mc_round_record);
        struct mc_round_record *record = (struct mc_round_record *)(void *)(image + at);
        record->checksum = mc_checksum(record, offsetof(struct mc_round_record, checksum));
        add_words(at, sizeof *record);
    }
}

/* The checksums of the groups of the change log that a reader comes to, and where they are. */
static void mend_log(uint8_t *image, const struct mc_root *root)
{
    const struct mc_superblock *superblock = (const struct mc_superblock *)(const void *)image;
    struct mc_space space = {.base = (shm_byte *)image, .limit = IMAGE_BYTES};
    struct mc_log log = mc_superblock_log(superblock);
    static uint8_t bytes[LOG_MOST];
    struct mc_log_group group;
    uint64_t at = root->log_end, seen = 0;
    uint32_t last = root->log_last;
    if (log.size == 0) {
        return;
    }
    for (int i = 0; i < 64 && !mc_log_is_odd(last) && seen + last <= log.size; i++) {
        at -= last;
        seen += last;
        mc_log_read(&space, &log, at, bytes, last);
        memcpy(&group, bytes, sizeof group);
        group.checksum = mc_checksum(bytes + sizeof group.checksum, last - sizeof group.checksum);
        mc_log_write(&space, &log, at, &group, sizeof group);
        add_words(log.offset + (at & (log.size - 1)), last < 64 ? last : 64);
        last = group.before;
    }
}

static void mend_header(uint8_t *image)
{
    struct mc_superblock *superblock = (struct mc_superblock *)(void *)image;
    struct mc_control *control = (struct mc_control *)(void *)(image + MC_CONTROL_OFFSET);
    memcpy(superblock->magic, MC_MAGIC, sizeof superblock->magic);
    superblock->version = MC_VERSION;
    superblock->byte_order = MC_BYTE_ORDER;
    superblock->granule = MC_GRANULE;
    superblock->ring_slots =
        superblock->ring_slots < 2 || superblock->ring_slots > 64 ? 4 : superblock->ring_slots;
    mend_places(superblock);
    if (superblock->max_size < MC_MAP_MIN || superblock->max_size > 64 * MC_EXTENT ||
        superblock->max_size % MC_EXTENT != 0) {
        superblock->max_size = 4 * MC_EXTENT;
    }
    superblock->checksum = mc_checksum(superblock, offsetof(struct mc_superblock, checksum));
    for (unsigned i = 0; i < MC_REPORT_SLOTS; i++) {
        struct mc_report *slot =
            (struct mc_report *)(void *)(image + MC_REPORT_OFFSET + i * sizeof *slot);
        slot->checksum = mc_checksum(slot, offsetof(struct mc_report, checksum));
        struct mc_position *position =
            (struct mc_position *)(void *)(image + MC_POSITION_OFFSET + i * sizeof *position);
        position->checksum = mc_checksum(position, offsetof(struct mc_position, checksum));
    }
    if (draw(8) != 0) { /* else the machine was restarted, and all of it is verified first */
        (void)mc_boot_id(control->boot_id, NULL);
    }
}

static struct mc_root *current_root(uint8_t *image)
{
    const struct mc_superblock *superblock = (const struct mc_superblock *)(const void *)image;
    const struct mc_control *control =
        (const struct mc_control *)(const void *)(image + MC_CONTROL_OFFSET);
    uint64_t slot = control->commit % superblock->ring_slots;
    return (struct mc_root *)(void *)(image + MC_RING_OFFSET + slot * sizeof(struct mc_root));
}

static void mend_image(uint8_t *image, struct mending mending)
{
    mend_header(image);
    struct mc_superblock *superblock = (struct mc_superblock *)(void *)image;
    struct mc_control *control = (struct mc_control *)(void *)(image + MC_CONTROL_OFFSET);
    struct mc_root *root = current_root(image);
    struct totals totals = {.used = superblock->arena_offset};
    uint64_t root_at = (uint64_t)((uint8_t *)root - image);
    words.count = references.count = 0;
    used_end = superblock->arena_offset;
    last_entry = entries_seen = 0;
    add_words(offsetof(struct mc_superblock, file_id), 64);
    add_words(MC_CONTROL_OFFSET, 16);
    add_words(MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id), 40);
    add_words(root_at, sizeof *root);
    add_place(&references, root_at + offsetof(struct mc_root, catalogue));
    (void)mend_table(image, root->catalogue, &totals, mending, MC_TABLE_CATALOGUE);
    if (mending.counts) {
        root->generation = control->commit;
        root->file_size = root->file_size > IMAGE_BYTES ? IMAGE_BYTES : root->file_size;
        root->documents = totals.documents;
        root->content = totals.content;
        root->collections = totals.collections;
        root->used = totals.used;
        control->horizon = control->horizon > control->commit ? control->commit : control->horizon;
    }
    root->checksum = mc_checksum(root, offsetof(struct mc_root, checksum));
    mend_log(image, root);
    mend_history(image);
}

/* ---- changing ---- */

/* Changes one word that counts. */
static void change_word(uint8_t *image)
{
    uint64_t word, other, at = drawn(&words);
    memcpy(&word, image + at, 8);
    memcpy(&other, image + drawn(&words), 8);
    switch (draw(7)) {
    case 0:
        word ^= UINT64_C(1) << draw(64);
        break;
    case 1:
        word += draw(2) ? draw(8) : -draw(8);
        break;
    case 2:
        word = other;
        break;
    case 3:
        word = draw(2) ? 0 : UINT64_MAX;
        break;
    case 4: /* another offset in a reference or slot */
        word = (word & ~REF_OFFSET_MASK) | drawn(&words) / MC_GRANULE;
        break;
    case 5: /* an entry's byte: a key, or within a document */
        word ^= draw(256) << (8 * draw(8));
        break;
    default: /* another size, depth or kind */
        word ^= draw(1u << 11) << REF_SIZE_SHIFT;
    }
    memcpy(image + at, &word, 8);
}

/* Hangs what a reference leads to below one node more: in one place of it, or in all. */
static void wrap_reference(uint8_t *image)
{
    uint64_t at = drawn(&references), node = (used_end + 63) & ~UINT64_C(63), ref;
    unsigned bits = (unsigned)(draw(4) != 0 ? MC_NODE_BITS : 1 + draw(MC_NODE_BITS));
    uint64_t places = UINT64_C(1) << bits, only = draw(places);
    memcpy(&ref, image + at, sizeof ref);
    if (node + 8 * places > IMAGE_MOST || at >= node) {
        return;
    }
    uint64_t depth = ref_depth(ref), all = draw(2) && !ref_is_node(ref);
    ref &= ~(UINT64_C(0xF) << REF_DEPTH_SHIFT);
    ref |= (uint64_t)(all ? 0 : bits) << REF_DEPTH_SHIFT;
    for (uint64_t i = 0; i < places; i++) {
        uint64_t there = all || i == only ? ref : 0;
        memcpy(image + node + 8 * i, &there, sizeof there);
    }
    ref = ref_node(node, bits, (unsigned)depth);
    memcpy(image + at, &ref, sizeof ref);
    used_end = node + 8 * places;
}

/* Lets a reference lead to what another one leads to, or to nothing. */
static void change_reference(uint8_t *image)
{
    uint64_t ref = 0, at = drawn(&references);
    if (draw(3) != 0) {
        memcpy(&ref, image + drawn(&references), sizeof ref);
    }
    memcpy(image + at, &ref, sizeof ref);
}

#define EMPTY_BINARY 13u /* bytes of {v: binary} without any */

/* Makes {v: binary} of the hindmost entry's value, `len` bytes from its place or up to `end`. */
static void replace_last(uint8_t *image, uint64_t len, uint64_t end)
{
    struct mc_entry entry;
    if (last_entry == 0 || last_entry + sizeof entry + MC_KEY_MAX + 16 > IMAGE_MOST) {
        return;
    }
    memcpy(&entry, image + last_entry, sizeof entry);
    uint64_t value = last_entry + sizeof entry + (entry.stamp >> MC_STAMP_LEN_SHIFT);
    entry.lengths = (uint32_t)(end != 0 ? end - value : len);
    uint32_t content = entry.lengths - EMPTY_BINARY;
    memcpy(image + last_entry, &entry, sizeof entry);
    memset(image + value, 0, IMAGE_MOST - value);
    memcpy(image + value, &entry.lengths, sizeof entry.lengths);
    memcpy(image + value + 4, "\5v", 3);
    memcpy(image + value + 7, &content, sizeof content);
}

/* Lets one entry take all the room that a cache of one extent has left, but for a little. */
static void fill_file(uint8_t *image)
{
    struct mc_superblock *superblock = (struct mc_superblock *)(void *)image;
    superblock->max_size = IMAGE_BYTES;
    replace_last(image, 0, IMAGE_BYTES - 64 * (1 + draw(32)));
}

/* Takes back, nearly always, what makes a run long, so that not all that comes from it is slow. */
static void lighten(uint8_t *image)
{
    uint16_t chosen;
    uint8_t *at = image + offsetof(struct mc_superblock, created_at);
    memcpy(&chosen, at, sizeof chosen);
    if ((chosen & CHOOSE_LARGE) == CHOOSE_LARGE && draw(8) != 0) {
        chosen &= (uint16_t)~CHOOSE_LARGE;
        memcpy(at, &chosen, sizeof chosen);
    }
    if (used_end > IMAGE_MOST && draw(8) != 0) {
        replace_last(image, EMPTY_BINARY, 0);
    }
}

/* Another way for the loader to go about it. */
static void change_choices(uint8_t *image)
{
    uint16_t chosen = (uint16_t)draw(CHOOSE_INDEX * 2);
    if (draw(2) != 0) {
        chosen &= (uint16_t)~CHOOSE_SHORT; /* nobody gets far with one */
    }
    if (draw(64) == 0) {
        chosen |= CHOOSE_LARGE;
    }
    memcpy(image + offsetof(struct mc_superblock, created_at), &chosen, sizeof chosen);
}

size_t change_image(uint8_t *data, size_t len, size_t most, uint64_t seed)
{
    static uint8_t *image; /* always zero behind IMAGE_MOST */
    if (image == NULL) {
        image = aligned_alloc(4096, IMAGE_BYTES);
        CHECK(image != NULL);
        memset(image, 0, IMAGE_BYTES);
    }
    len = len < IMAGE_MOST ? len : IMAGE_MOST;
    memcpy(image, data, len);
    memset(image + len, 0, IMAGE_MOST - len);
    draw_state = seed;
    mend_image(image, (struct mending){.entries = false}); /* finds what there is */
    lighten(image);
    for (uint64_t i = draw(5); i > 0; i--) {
        switch (draw(8)) {
        case 0:
            wrap_reference(image);
            break;
        case 1:
            change_reference(image);
            break;
        case 2:
            change_choices(image);
            if (draw(4) == 0) {
                fill_file(image);
            }
            break;
        default:
            change_word(image);
        }
    }
    if (draw(8) != 0) {
        mend_image(image,
                   (struct mending){.entries = true, .counts = draw(3) != 0, .tags = draw(2)});
    }
    len = len > used_end ? len : (size_t)used_end;
    len = len < IMAGE_MOST ? len : IMAGE_MOST;
    while (len > 0 && image[len - 1] == 0) {
        len--;
    }
    len = len < most ? len : most;
    memcpy(data, image, len);
    return len;
}
