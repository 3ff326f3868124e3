/* test_store.c - batches against an oracle, through commits, aborts, cancels, reopening and full
 * files. */
#include "faults.h"
#include "store_support.h"

static struct mc_writer *writer;
static struct oracle committed, working, before_replace;

static void compare(void)
{
    struct mc_view view;
    bool equal;
    mc_writer_view(writer, &view);
    CHECK_EQ(view_equals(&view, &committed, &equal), MC_OK);
    CHECK(equal);
    check_clean(&view);
}

/* One random operation on collection c within the batch, in the cache and in the oracle. */
static void random_operation(int c, int version)
{
    int k = (int)test_below(KEYS);
    bool existed;
    switch (test_below(8)) {
    case 0:
    case 1:
        CHECK_OK(delete_key_of(writer, c, k, &existed));
        CHECK_EQ(existed, working.version[c][k] != ABSENT);
        working.version[c][k] = ABSENT;
        break;
    case 2:
        if (test_below(10) == 0) {
            CHECK_OK(mc_batch_drop(writer, collection_names[c], strlen(collection_names[c]),
                                   &existed, &test_error));
            CHECK_EQ(existed, working.exists[c]);
            working.exists[c] = false;
            for (k = 0; k < KEYS; k++) {
                working.version[c][k] = ABSENT;
            }
        }
        break;
    default:
        CHECK_OK(put_version(writer, c, k, version));
        working.exists[c] = true;
        working.version[c][k] = version;
    }
}

/* A replace of collection c by a random subset, cancelled now and then, with operations on
 * others. */
static void random_replace(int c, int version)
{
    before_replace = working;
    CHECK_OK(
        mc_replace_begin(writer, collection_names[c], strlen(collection_names[c]), &test_error));
    for (int k = 0; k < KEYS; k++) {
        working.version[c][k] = ABSENT;
    }
    working.exists[c] = true;
    for (int i = 0; i < 60; i++) {
        int k = (int)test_below(KEYS);
        int v = test_below(2) && before_replace.version[c][k] != ABSENT
                    ? before_replace.version[c][k]
                    : version;
        CHECK_OK(put_version(writer, c, k, v));
        working.version[c][k] = v;
        if (test_below(8) == 0) {
            bool existed;
            CHECK_OK(delete_key_of(writer, c, k, &existed));
            CHECK(existed);
            working.version[c][k] = ABSENT;
        }
        if (test_below(4) == 0) {
            random_operation((c + 1) % COLLECTIONS, version);
        }
    }
    if (test_below(3) == 0) {
        mc_replace_cancel(writer);
        working.exists[c] = before_replace.exists[c];
        memcpy(working.version[c], before_replace.version[c], sizeof working.version[c]);
    } else {
        CHECK_OK(mc_replace_end(writer, &test_error));
    }
}

static void random_batch(int version)
{
    uint64_t generation;
    working = committed;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (uint64_t i = test_below(30); i > 0; i--) {
        random_operation((int)test_below(COLLECTIONS), version);
    }
    if (test_below(4) == 0) {
        random_replace((int)test_below(COLLECTIONS), version);
    }
    if (test_below(5) == 0) {
        mc_batch_abort(writer);
        return;
    }
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    committed = working;
}

static void test_random_batches(void)
{
    struct mc_writer_options options = small_options();
    remove_cache(test_path());
    oracle_clear(&committed);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    for (int round = 1; round <= test_rounds(600); round++) {
        options.retention_ns = test_below(2) ? 0 : 1000000000;
        random_batch(round);
        compare();
        if (test_below(20) == 0) { /* half the time with a batch open: it must leave no trace */
            if (test_below(2)) {
                CHECK_OK(mc_batch_begin(writer, &test_error));
                working = committed;
                random_operation(0, round);
            }
            mc_writer_close(writer);
            options.max_size = test_below(3) == 0 ? (test_below(2) ? 16u << 20 : 8u << 20) : 0;
            CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
            compare();
        }
    }
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* A refresh that changes nothing publishes nothing and allocates nothing. */
static void test_unchanged(void)
{
    struct mc_writer_options options = small_options();
    struct mc_view first, second;
    uint64_t generation;
    writer = open_new_cache(&options);
    for (int round = 0; round < 2; round++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
        for (int k = 0; k < KEYS; k++) {
            CHECK_OK(put_version(writer, 0, k, 1));
        }
        CHECK_OK(mc_replace_end(writer, &test_error));
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        CHECK_EQ(generation, round == 0 ? 1 : 0);
        mc_writer_view(writer, round == 0 ? &first : &second);
    }
    CHECK_EQ(memcmp(&first.root, &second.root, sizeof first.root), 0);
    CHECK_EQ(mc_batch_counts(writer).unchanged, KEYS);
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* A batch that does not fit fails as a whole, with numbers; the next smaller one works. */
static void test_full(void)
{
    struct mc_writer_options options = small_options();
    static uint8_t big[MC_DOCUMENT_MAX];
    uint64_t generation, published = 0;
    struct mc_view view;
    remove_cache(test_path());
    options.max_size = MC_MAP_MIN * 2;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    for (int round = 0; round < 40; round++) {
        enum mc_status status = MC_OK;
        struct mc_key key;
        bool changed;
        const uint32_t len = 200000;
        fill_document(big, len, 0);
        CHECK_OK(mc_batch_begin(writer, &test_error));
        for (int i = 0; i < round + 1 && status == MC_OK; i++) {
            mc_key_from_int64(i, &key);
            big[len - 2] = (uint8_t)round;
            status = mc_batch_put(writer, "big", 3, &key, big, len, &changed, &test_error);
        }
        if (status != MC_OK) {
            CHECK_EQ(status, MC_FULL);
            CHECK(test_error.needed >= len && test_error.limit == options.max_size);
            CHECK(test_error.largest < test_error.needed && test_error.free >= test_error.largest);
            mc_batch_abort(writer);
        } else {
            CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
            published = generation;
        }
        mc_writer_view(writer, &view);
        CHECK_EQ(view.root.generation, published);
        check_clean(&view);
    }
    CHECK(published > 3 && published < 40);
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* Every allocation of a batch and of an open made to fail in turn: a status, no harm, nothing
 * lost. */
static void test_allocation_failures(void)
{
    struct mc_writer_options options = small_options();
    long failures = 0;
    remove_cache(test_path());
    oracle_clear(&committed);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    for (long left = 0; left < 60; left++) {
        enum mc_status status = mc_batch_begin(writer, &test_error);
        int version = (int)left + 1;
        uint64_t generation;
        working = committed;
        faults_arm(FAULT_BIT(FAULT_MEMORY), left % 20, true, 0);
        if (status == MC_OK && left % 3 == 0) {
            status = mc_replace_begin(writer, "sites", 5, &test_error);
            for (int k = 0; status == MC_OK && k < KEYS; k++) {
                working.version[0][k] = ABSENT;
            }
        }
        for (int k = 0; status == MC_OK && k < KEYS; k++) {
            status = put_version(writer, 0, k, version);
            working.exists[0] = true;
            working.version[0][k] = version;
        }
        if (status == MC_OK && left % 3 == 0) {
            status = mc_replace_end(writer, &test_error);
        }
        if (status == MC_OK) {
            status = mc_batch_commit(writer, &generation, &test_error);
        }
        (void)faults_disarm();
        if (status == MC_OK) {
            committed = working;
        } else {
            CHECK_EQ(status, MC_NOMEM);
            mc_batch_abort(writer);
            failures++;
        }
        compare();
        if (left % 5 == 0) { /* lists and indexes grow from nothing again */
            struct mc_writer *again;
            mc_writer_close(writer);
            for (long allowed = 0;; allowed++) {
                faults_arm(FAULT_BIT(FAULT_MEMORY), allowed, true, 0);
                status = mc_writer_open(test_path(), &options, &again, &test_error);
                (void)faults_disarm();
                if (status == MC_OK) {
                    break;
                }
                CHECK_EQ(status, MC_NOMEM);
                failures++;
            }
            writer = again;
        }
    }
    printf("allocation failures: %ld\n", failures);
    CHECK(failures > 20);
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* The names of limits, at them and one past. */
static void test_limits(void)
{
    struct mc_writer_options options = small_options();
    char name[MC_NAME_MAX + 2];
    uint8_t document[DOCUMENT_MOST];
    struct mc_key key;
    bool changed;
    uint64_t generation;
    size_t len = make_document(document, 1, 1);
    remove_cache(test_path());
    options.max_size = MC_MAP_MIN - 1;
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_LIMIT);
    options.max_size = MC_MAP_MAX + 1;
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_LIMIT);
    options.max_size = 64u << 20;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    memset(name, 'n', sizeof name);
    mc_key_from_int64(1, &key);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_put(writer, name, MC_NAME_MAX, &key, document, len, &changed, &test_error));
    CHECK_EQ(
        mc_batch_put(writer, name, MC_NAME_MAX + 1, &key, document, len, &changed, &test_error),
        MC_LIMIT);
    CHECK_EQ(mc_batch_put(writer, name, 0, &key, document, len, &changed, &test_error), MC_LIMIT);
    for (unsigned i = 1; i < MC_COLLECTIONS_MAX; i++) {
        int digits = snprintf(name, sizeof name, "c%u", i);
        CHECK_OK(
            mc_batch_put(writer, name, (size_t)digits, &key, document, len, &changed, &test_error));
    }
    CHECK_EQ(mc_batch_put(writer, "more", 4, &key, document, len, &changed, &test_error), MC_LIMIT);
    CHECK_EQ(mc_replace_begin(writer, "more", 4, &test_error), MC_LIMIT);
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    static uint8_t state[MC_STATE_MAX + 1];
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_state(writer, state, MC_STATE_MAX, &test_error));
    CHECK_EQ(mc_batch_state(writer, state, MC_STATE_MAX + 1, &test_error), MC_LIMIT);
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    struct mc_view view;
    mc_writer_view(writer, &view);
    CHECK_EQ(view.root.collections, MC_COLLECTIONS_MAX);
    check_clean(&view);
    mc_writer_close(writer);
    options.max_size = 0;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_close(writer);
    remove_cache(test_path());
}

int main(void)
{
    test_begin("test_store");
    test_unchanged();
    test_full();
    test_limits();
    test_random_batches();
    test_allocation_failures();
    return 0;
}
