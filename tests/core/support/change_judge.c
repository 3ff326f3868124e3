/* change_judge.c - see change_judge.h. */
#include "change_judge.h"

struct change_tally change_tally;

/* What the log said of the oracle's world. */
struct said {
    bool all, named[COLLECTIONS], whole[COLLECTIONS];
    enum mc_change_kind last[COLLECTIONS][KEYS]; /* MC_CHANGE_ALL: nothing */
};

static int collection_of(const struct mc_change *change)
{
    for (int c = 0; c < COLLECTIONS; c++) {
        if (strlen(collection_names[c]) == change->name_len &&
            memcmp(collection_names[c], change->name, change->name_len) == 0) {
            return c;
        }
    }
    return -1;
}

static void listen(struct said *said, const struct mc_change *change)
{
    int64_t k;
    if (change->kind == MC_CHANGE_ALL) {
        said->all = true;
        change_tally.alls++;
        return;
    }
    int c = collection_of(change);
    if (c < 0) {
        return;
    }
    said->named[c] = true;
    if (change->kind == MC_CHANGE_COLLECTION) {
        said->whole[c] = true;
        change_tally.collections++;
        return;
    }
    CHECK(change->key.type == MC_BSON_INT64 && change->key.len == sizeof k);
    memcpy(&k, change->key.data, sizeof k);
    CHECK(k >= 0 && k < KEYS);
    said->last[c][k] = change->kind;
    change_tally.keys++;
}

static void judge(const struct said *said, const struct oracle *from, const struct oracle *to)
{
    for (int c = 0; c < COLLECTIONS; c++) {
        CHECK(from->exists[c] == to->exists[c] || said->all || said->named[c]);
        for (int k = 0; k < KEYS; k++) {
            bool differs = from->version[c][k] != to->version[c][k];
            enum mc_change_kind last = said->last[c][k];
            if (said->all || said->whole[c]) {
                continue;
            }
            CHECK(!differs || last != MC_CHANGE_ALL);
            CHECK(last != MC_CHANGE_PUT || to->version[c][k] != ABSENT);
            CHECK(last != MC_CHANGE_DELETE || to->version[c][k] == ABSENT);
        }
    }
}

enum mc_status judge_changes(const struct mc_view *view, uint64_t since, const struct oracle *from,
                             const struct oracle *to)
{
    static struct said said;
    struct mc_changes changes;
    struct mc_change change;
    uint64_t generation = since;
    memset(&said, 0, sizeof said);
    enum mc_status status = mc_changes_open(view, since, MC_CHANGES_UNLIMITED, &changes);
    if (status != MC_OK) {
        CHECK(status == MC_ABSENT || status == MC_EXPIRED);
        change_tally.unknown += status == MC_ABSENT;
        change_tally.expired += status == MC_EXPIRED;
        return status;
    }
    while ((status = mc_changes_next(&changes, &change)) == MC_OK) {
        CHECK(change.generation > since && change.generation >= generation &&
              change.generation <= view->root.generation);
        generation = change.generation;
        listen(&said, &change);
    }
    CHECK_EQ(status, MC_ABSENT);
    mc_changes_close(&changes);
    judge(&said, from, to);
    return MC_OK;
}
