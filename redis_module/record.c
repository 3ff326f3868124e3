/* record.c - reads the record of the ring, which anybody may have written. */
#include "record.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EPOCH 9007199254740992.0 /* 2^53: below it every whole number has a double */

/* The one member with this name; NULL and *twice when there are two. */
static const cJSON *member(const cJSON *object, const char *name, bool *twice)
{
    const cJSON *found = NULL;
    for (const cJSON *item = object->child; item != NULL; item = item->next) {
        if (strcmp(item->string, name) == 0) {
            *twice |= found != NULL;
            found = item;
        }
    }
    return found;
}

static bool is_count(const cJSON *item)
{
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < MAX_EPOCH &&
           item->valuedouble == (double)(uint64_t)item->valuedouble;
}

static const char *add_id(struct record *record, const cJSON *item)
{
    if (!cJSON_IsString(item)) {
        return "an id of a node is no text";
    }
    struct ring_id id = {item->valuestring, strlen(item->valuestring)};
    if (!ring_id_valid(id)) {
        return "an id of a node has other characters than A-Z a-z 0-9 . _ -, or not 1 to 64";
    }
    if (record->count == RING_NODES_MAX) {
        return "there are more than 128 nodes";
    }
    memcpy(record->ids[record->count++], id.bytes, id.length + 1);
    return NULL;
}

static const char *read_nodes(struct record *record, const cJSON *nodes)
{
    if (!cJSON_IsArray(nodes)) {
        return "there is no list \"nodes\"";
    }
    for (const cJSON *item = nodes->child; item != NULL; item = item->next) {
        const char *wrong = add_id(record, item);
        if (wrong != NULL) {
            return wrong;
        }
    }
    return NULL;
}

/* The node that comes or goes where both rings are written: its index, and which ring is read. */
static const char *read_change(struct record *record, const cJSON *change,
                               enum ring_change *reading, size_t *changing)
{
    bool twice = false;
    const cJSON *added = member(change, "add", &twice);
    const cJSON *drained = member(change, "drain", &twice);
    const cJSON *clean = member(change, "clean", &twice);
    const cJSON *node = added != NULL ? added : drained;
    if (twice || node == NULL || (added != NULL && drained != NULL) ||
        (clean != NULL && !cJSON_IsBool(clean))) {
        return "\"change\" is not {\"add\" or \"drain\": ID, \"since\": ms}";
    }
    struct record alone = {0};
    const char *wrong = add_id(&alone, node);
    if (wrong != NULL || cJSON_IsTrue(clean)) {
        return wrong;
    }
    int index = record_index(record, alone.ids[0], strlen(alone.ids[0]));
    *reading = index >= 0 ? RING_READ_WITH : RING_READ_WITHOUT;
    *changing = index >= 0 ? (size_t)index : record->count;
    return index >= 0 ? NULL : add_id(record, node);
}

static const char *read_object(struct record *record, const cJSON *object)
{
    bool twice = false;
    const cJSON *version = member(object, "version", &twice);
    const cJSON *epoch = member(object, "epoch", &twice);
    const cJSON *nodes = member(object, "nodes", &twice);
    const cJSON *change = member(object, "change", &twice);
    if (twice) {
        return "a name is there twice";
    }
    if (!is_count(version) || version->valuedouble != 1) {
        return "its version is not 1, which is all that this server knows";
    }
    if (!is_count(epoch) || epoch->valuedouble < 1) {
        return "\"epoch\" is no whole number from 1 on";
    }
    record->epoch = (uint64_t)epoch->valuedouble;
    enum ring_change reading = RING_STILL;
    size_t changing = 0;
    const char *wrong = read_nodes(record, nodes);
    if (wrong == NULL && cJSON_IsObject(change)) {
        wrong = read_change(record, change, &reading, &changing);
    } else if (wrong == NULL && change != NULL && !cJSON_IsNull(change)) {
        wrong = "\"change\" is neither null nor an object";
    }
    if (wrong != NULL) {
        return wrong;
    }
    struct ring_id ids[RING_NODES_MAX];
    for (unsigned i = 0; i < record->count; i++) {
        ids[i] = (struct ring_id){record->ids[i], strlen(record->ids[i])};
    }
    switch (ring_make(&record->ring, ids, record->count, reading, changing)) {
    case RING_FINE:
        return NULL;
    case RING_NO_NODE:
        return "no node is left in it";
    default:
        return "a node is there twice";
    }
}

const char *record_parse(struct record *record, const char *json, size_t length)
{
    memset(record, 0, sizeof *record);
    if (length > RECORD_MAX_BYTES) {
        return "it is longer than 64 KiB";
    }
    /* The library ends texts at a NUL. */
    if (memchr(json, '\0', length) != NULL) {
        return "there is a NUL in it";
    }
    char *text = malloc(length + 1);
    if (text == NULL) {
        return "there is no memory to read it";
    }
    memcpy(text, json, length);
    text[length] = '\0';
    const char *wrong = "it is no JSON object";
    cJSON *object = strstr(text, "\\u0000") != NULL
                        ? NULL
                        : cJSON_ParseWithLengthOpts(text, length + 1, NULL, true);
    if (object != NULL && cJSON_IsObject(object)) {
        wrong = read_object(record, object);
    }
    cJSON_Delete(object);
    free(text);
    return wrong;
}

int record_index(const struct record *record, const char *id, size_t length)
{
    for (unsigned i = 0; i < record->count; i++) {
        if (strlen(record->ids[i]) == length && memcmp(record->ids[i], id, length) == 0) {
            return (int)i;
        }
    }
    return -1;
}

bool record_is_alike(const struct record *a, const struct record *b)
{
    return a->count == b->count && a->ring.change == b->ring.change &&
           a->ring.changing == b->ring.changing && memcmp(a->ids, b->ids, sizeof a->ids) == 0;
}
