/* fields.c - how a document finds its fields and remembers what it decoded.
 *
 *      doc["limits"]
 *        1. first_name is that object?            one comparison      (mc_field_get's callers)
 *        2. the memo has that object?             a short probe
 *        3. index by the bytes of the name        once there is one
 *        4. walk over the BSON, or the file's index of the fields of a large one; decode, remember
 *
 * Step 4 also serves names that are equal but another object each time (made from a request): the
 * walk gives the offset, and an offset that is remembered gives the value. A document in which such
 * walks are long more than a few times gets an index, so that nothing is linear for ever.
 *
 * What changes a document does so in a section of it; the functions that are called within one say
 * so. The others load what is published.
 */
#include "fields.h"

#include "decode.h"
#include "hash.h"
#include "memo.h"

enum {
    LONG_WALK = 600,  /* bytes walked over: some 16 fields */
    LONG_WALKS = 3,   /* of them and the index is built */
    COMPARE_MAX = 24, /* fields whose names are compared each with each */
};

static inline uint32_t name_hash(const struct mc_document_state *state, const uint8_t *name,
                                 size_t len)
{
    return (uint32_t)(mc_hash(state->secret, 0, name, len) >> 32);
}

static inline uint32_t offset_of(const struct mc_document *self,
                                 const struct mc_bson_element *element)
{
    return (uint32_t)(element->name - 1 - self->data);
}

/* ---- memo ---- */

/* A copy with more slots, or as many with `name` in the place of the name object at `except`.
 * Within a section. */
static int memo_rebuild(struct mc_document *self, uint32_t slots, uint32_t except, PyObject *name)
{
    struct mc_memo *old = self->memo, *memo = mc_memo_new(slots);
    if (memo == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; old != NULL && i <= old->mask; i++) {
        if (old->slots[i].name != NULL) {
            mc_memo_put(memo, i == except ? name : old->slots[i].name, old->slots[i].value,
                        old->offsets[i]);
        }
    }
    mc_reveal(&self->memo, memo);
    mc_memo_retire(self, old);
    return 0;
}

/* ---- index ---- */

static struct mc_index *index_new(uint32_t fields, bool array)
{
    uint32_t buckets = array ? 1 : 8;
    struct mc_index *index;
    size_t size;
    while (!array && buckets < fields + fields / 2) {
        buckets *= 2;
    }
    size = sizeof *index + fields * sizeof(struct mc_field) + buckets * sizeof(uint32_t);
    index = PyMem_Malloc(size);
    if (index == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(index, 0, size);
    index->mask = buckets - 1;
    index->buckets = (uint32_t *)(void *)&index->fields[fields];
    return index;
}

/* The bucket of a name: of its field, or the free one where it would go. */
static uint32_t *index_bucket(const struct mc_document *self, const struct mc_index *index,
                              const uint8_t *name, size_t len)
{
    uint32_t at = name_hash(mc_state_of(self), name, len) & index->mask;
    while (index->buckets[at] != 0) {
        const struct mc_field *field = &index->fields[index->buckets[at] - 1];
        if (field->name_len == len && memcmp(self->data + field->offset + 1, name, len) == 0) {
            break;
        }
        at = (at + 1) & index->mask;
    }
    return &index->buckets[at];
}

/* Counts the elements, equal names included; -1 with CorruptError. */
static int64_t count_elements(struct mc_document *self)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    int64_t count = 0;
    enum mc_status status = mc_bson_open(&cursor, self->data, self->len);
    while (status == MC_OK && (status = mc_bson_next(&cursor, &element)) == MC_OK) {
        count++;
    }
    if (status != MC_ABSENT) {
        mc_value_corrupt(mc_state_of(self));
        return -1;
    }
    return count;
}

static void index_fill(struct mc_document *self, struct mc_index *index, bool array)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status = mc_bson_open(&cursor, self->data, self->len);
    while (status == MC_OK && (status = mc_bson_next(&cursor, &element)) == MC_OK) {
        uint32_t *bucket = NULL;
        if (!array) {
            bucket = index_bucket(self, index, element.name, element.name_len);
            if (*bucket != 0) {
                continue; /* of equal names the first counts */
            }
        }
        index->fields[index->count++] =
            (struct mc_field){.offset = offset_of(self, &element), .name_len = element.name_len};
        if (bucket != NULL) {
            *bucket = index->count;
        }
    }
}

/* The field of the element at `offset`, which the walker has found: so its name has a NUL. */
static struct mc_field *field_at(const struct mc_document *self, struct mc_index *index,
                                 uint32_t offset)
{
    const uint8_t *name = self->data + offset + 1;
    const uint8_t *nul = memchr(name, 0, self->len - offset - 1);
    return &index->fields[*index_bucket(self, index, name, (size_t)(nul - name)) - 1];
}

/* Moves what was remembered before there was an index. */
static void index_adopt(struct mc_document *self, struct mc_index *index)
{
    struct mc_memo *memo = self->memo;
    for (uint32_t i = 0; memo != NULL && i <= memo->mask; i++) {
        if (memo->slots[i].name != NULL) {
            struct mc_field *field = field_at(self, index, memo->offsets[i]);
            field->name = memo->slots[i].name;
            field->value = memo->slots[i].value;
        }
    }
    if (self->first_name != NULL) {
        struct mc_field *field = field_at(self, index, self->first_offset);
        field->name = Py_NewRef(self->first_name);
        field->value = Py_NewRef(self->first_value);
    }
}

/* Within a section. */
static int make_index(struct mc_document *self)
{
    struct mc_memo *memo = self->memo;
    bool array = Py_TYPE(self) == mc_state_of(self)->array_type;
    struct mc_index *index;
    int64_t elements;
    if (self->index != NULL) {
        return 0;
    }
    elements = count_elements(self);
    index = elements >= 0 ? index_new((uint32_t)elements, array) : NULL;
    if (index == NULL) {
        return -1;
    }
    index_fill(self, index, array);
    index_adopt(self, index);
    mc_reveal(&self->index, index);
    mc_reveal(&self->memo, NULL);
    mc_memo_retire(self, memo);
    mc_reveal(&self->count, index->count);
    return 0;
}

int mc_fields_index(struct mc_document *self)
{
    int result = 0;
    if (mc_load(&self->index) == NULL) {
        MC_SECTION_BEGIN(self);
        result = make_index(self);
        MC_SECTION_END();
    }
    return result;
}

/* ---- the number of fields ---- */

/* True when two elements may have the same name: their hashes are equal. */
static bool names_may_repeat(const struct mc_document *self, int64_t elements)
{
    uint32_t hashes[COMPARE_MAX];
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    unsigned count = 0;
    if (elements > COMPARE_MAX || mc_bson_open(&cursor, self->data, self->len) != MC_OK) {
        return true;
    }
    while (mc_bson_next(&cursor, &element) == MC_OK) {
        uint32_t hash = name_hash(mc_state_of(self), element.name, element.name_len);
        for (unsigned i = 0; i < count; i++) {
            if (hashes[i] == hash) {
                return true;
            }
        }
        hashes[count++] = hash;
    }
    return false;
}

Py_ssize_t mc_fields_count(struct mc_document *self)
{
    uint32_t count = mc_load(&self->count);
    if (count == MC_COUNT_UNKNOWN) {
        int64_t elements = count_elements(self);
        if (elements < 0) {
            return -1;
        }
        if (Py_TYPE(self) != mc_state_of(self)->array_type && names_may_repeat(self, elements)) {
            return mc_fields_index(self) < 0 ? -1 : (Py_ssize_t)mc_load(&self->index)->count;
        }
        count = (uint32_t)elements;
        mc_reveal(&self->count, count);
    }
    return (Py_ssize_t)count;
}

/* ---- looking up ---- */

/* The remembered value of the element at `offset`, borrowed, or NULL. With an index, `field` is its
 * field. When code's own name object comes along, it replaces the one that is remembered. Within a
 * section. */
static PyObject *recall(struct mc_document *self, PyObject *name, uint32_t offset,
                        struct mc_field *field)
{
    bool adopt = name != NULL && PyUnicode_CHECK_INTERNED(name);
    PyObject *value;
    uint32_t slot;
    if (self->first_value != NULL && self->first_offset == offset) {
        if (adopt && self->first_name != name) {
            mc_name_replace(&self->first_name, name);
        }
        return self->first_value;
    }
    if (field != NULL) {
        if (adopt && field->name != name) {
            mc_name_replace(&field->name, name);
        }
        return field->value;
    }
    value = mc_memo_by_offset(self, offset, &slot);
    if (value != NULL && adopt && self->memo->slots[slot].name != name &&
        !PyUnicode_CHECK_INTERNED(self->memo->slots[slot].name)) {
        PyObject *old = self->memo->slots[slot].name;
        if (memo_rebuild(self, self->memo->mask + 1, slot, name) < 0) {
            PyErr_Clear(); /* it was an optimisation */
        } else {
            Py_INCREF(name);
            Py_DECREF(old);
        }
    }
    return value;
}

/* Remembers a value (not consumed) under a name object. 0, or -1 with MemoryError. Within a
 * section. */
static int remember(struct mc_document *self, PyObject *name, PyObject *value, uint32_t offset,
                    struct mc_field *field)
{
    struct mc_memo *memo = self->memo;
    if (field != NULL) {
        mc_name_replace(&field->name, name);
        mc_reveal(&field->value, Py_NewRef(value));
        return 0;
    }
    if (self->first_name == NULL) {
        self->first_offset = offset;
        self->first_value = Py_NewRef(value);
        mc_reveal(&self->first_name, Py_NewRef(name));
        return 0;
    }
    if (memo == NULL || memo->used + 1 > (memo->mask + 1) * 3 / 4) {
        if (memo_rebuild(self, memo == NULL ? 4 : (memo->mask + 1) * 2, UINT32_MAX, NULL) < 0) {
            return -1;
        }
    }
    mc_memo_put(self->memo, Py_NewRef(name), Py_NewRef(value), offset);
    return 0;
}

/* The field of an element when there is an index, else NULL. */
static struct mc_field *field_of(struct mc_document *self, const struct mc_bson_element *element)
{
    struct mc_index *index = mc_load(&self->index);
    uint32_t number;
    if (index == NULL) {
        return NULL;
    }
    number = *index_bucket(self, index, element->name, element->name_len);
    return number != 0 ? &index->fields[number - 1] : NULL;
}

/* The value of the element: recalled, or decoded and, if asked for, remembered. New reference. */
static PyObject *obtain(struct mc_document *self, PyObject *name,
                        const struct mc_bson_element *element, struct mc_field *field, bool keep)
{
    uint32_t offset = offset_of(self, element);
    PyObject *value, *other;
    MC_SECTION_BEGIN(self);
    value = Py_XNewRef(recall(self, name, offset, field));
    MC_SECTION_END();
    if (value != NULL) {
        return value;
    }
    value = mc_value(self, element);
    if (value == NULL || !keep) {
        return value;
    }
    /* decoding may have run Python code: another thread may have been here meanwhile */
    MC_SECTION_BEGIN(self);
    if (self->index == NULL && self->memo != NULL && self->memo->used >= MC_MEMO_MAX &&
        make_index(self) < 0) {
        Py_CLEAR(value);
    } else {
        field = field_of(self, element);
        other = recall(self, NULL, offset, field);
        if (other != NULL) {
            Py_SETREF(value, Py_NewRef(other));
        } else if (remember(self, name, value, offset, field) < 0) {
            Py_CLEAR(value);
        }
    }
    MC_SECTION_END();
    return value;
}

/* Reads the element of a field of the index. */
static int element_at(struct mc_document *self, uint32_t offset, struct mc_bson_element *element)
{
    struct mc_bson_cursor cursor = {.at = self->data + offset,
                                    .end = self->data + mc_bson_size(self->data, self->len) - 1};
    if (mc_bson_next(&cursor, element) != MC_OK) {
        mc_value_corrupt(mc_state_of(self));
        return -1;
    }
    return 0;
}

/* A name as UTF-8; NULL without exception when no field can be called so. */
static const char *utf8_of(PyObject *name, Py_ssize_t *len)
{
    const char *text;
    if (PyUnicode_IS_COMPACT_ASCII(name)) {
        *len = PyUnicode_GET_LENGTH(name);
        return (const char *)PyUnicode_1BYTE_DATA(name);
    }
    text = PyUnicode_AsUTF8AndSize(name, len);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        PyErr_Clear();
    }
    return text;
}

int mc_field_find(struct mc_document *self, const uint8_t *name, size_t len,
                  struct mc_bson_element *element)
{
    const struct mc_index *index = mc_load(&self->index);
    uint16_t walks = mc_peek(&self->long_walks);
    enum mc_status status;
    if (index == NULL && walks >= LONG_WALKS) {
        if (mc_fields_index(self) < 0) {
            return -1;
        }
        index = mc_load(&self->index);
    }
    if (index != NULL) {
        uint32_t number = *index_bucket(self, index, name, len);
        if (number == 0) {
            return 0;
        }
        return element_at(self, index->fields[number - 1].offset, element) < 0 ? -1 : 1;
    }
    status = self->blocks == 0
                 ? mc_bson_find(self->data, self->len, (const char *)name, len, element)
                 : mc_field_index_find(self->data, self->len, self->data + self->len, self->blocks,
                                       (const char *)name, len, element);
    if ((status == MC_OK ? offset_of(self, element) : self->len) > LONG_WALK) {
        mc_poke(&self->long_walks, (uint16_t)(walks + 1));
    }
    if (status == MC_INVALID) {
        mc_value_corrupt(mc_state_of(self));
        return -1;
    }
    return status == MC_OK;
}

PyObject *mc_field_get(struct mc_document *self, PyObject *name)
{
    struct mc_document_state *state = mc_state_of(self);
    const struct mc_index *index = mc_load(&self->index);
    struct mc_bson_element element;
    PyObject *value, *kept;
    const char *text;
    Py_ssize_t len;
    if (!PyUnicode_Check(name)) {
        (void)PyObject_Hash(name); /* TypeError for what is unhashable, as from a dict */
        return NULL;
    }
    text = utf8_of(name, &len);
    if (text == NULL) {
        return NULL;
    }
    if (index != NULL) {
        uint32_t number = *index_bucket(self, index, (const uint8_t *)text, (size_t)len);
        value = number != 0 ? mc_load(&index->fields[number - 1].value) : NULL;
        if (number == 0 || value != NULL) {
            return Py_XNewRef(value);
        }
    }
    if (mc_field_find(self, (const uint8_t *)text, (size_t)len, &element) <= 0) {
        return NULL;
    }
    mc_name_offer(state, name, (const uint8_t *)text, (size_t)len);
    /* a subclass of str may compare as it likes: it is not remembered */
    kept = PyUnicode_CheckExact(name) ? Py_NewRef(name)
                                      : mc_name(state, (const uint8_t *)text, (size_t)len);
    value = kept != NULL ? obtain(self, kept, &element, field_of(self, &element), true) : NULL;
    Py_XDECREF(kept);
    return value;
}

/* ---- walking ---- */

int mc_fields_begin(struct mc_field_walk *walk, struct mc_document *document)
{
    *walk = (struct mc_field_walk){.document = document, .offset = 4};
    return mc_fields_count(document) < 0 ? -1 : 0;
}

int mc_fields_next(struct mc_field_walk *walk, struct mc_bson_element *element)
{
    struct mc_document *self = walk->document;
    const struct mc_index *index = mc_load(&self->index);
    if (walk->position >= mc_load(&self->count)) {
        return 0;
    }
    if (index != NULL) {
        walk->offset = index->fields[walk->position].offset;
    }
    if (element_at(self, walk->offset, element) < 0) {
        return -1;
    }
    walk->offset = (uint32_t)(element->value + element->value_len - self->data);
    walk->position++;
    return 1;
}

static struct mc_field *walk_field(struct mc_field_walk *walk)
{
    struct mc_index *index = mc_load(&walk->document->index);
    return index != NULL ? &index->fields[walk->position - 1] : NULL;
}

PyObject *mc_fields_name(struct mc_field_walk *walk, const struct mc_bson_element *element)
{
    struct mc_field *field = walk_field(walk);
    PyObject *name = NULL;
    if (field != NULL) {
        MC_SECTION_BEGIN(walk->document);
        name = Py_XNewRef(field->name);
        MC_SECTION_END();
    }
    return name != NULL ? name
                        : mc_name(mc_state_of(walk->document), element->name, element->name_len);
}

PyObject *mc_fields_value(struct mc_field_walk *walk, const struct mc_bson_element *element)
{
    bool keep = element->type == MC_BSON_DOCUMENT || element->type == MC_BSON_ARRAY;
    bool array = Py_TYPE(walk->document) == mc_state_of(walk->document)->array_type;
    PyObject *name, *value;
    if (array && keep) {
        return mc_member_get(walk->document, (Py_ssize_t)walk->position - 1);
    }
    name = keep ? mc_fields_name(walk, element) : NULL;
    if (keep && name == NULL) {
        return NULL;
    }
    value = obtain(walk->document, name, element, walk_field(walk), keep);
    Py_XDECREF(name);
    return value;
}

PyObject *mc_member_get(struct mc_document *self, Py_ssize_t index)
{
    struct mc_bson_element element;
    struct mc_field *field;
    PyObject *value;
    if (mc_fields_index(self) < 0) {
        return NULL;
    }
    field = &mc_load(&self->index)->fields[index];
    value = mc_load(&field->value);
    if (value != NULL) {
        return Py_NewRef(value);
    }
    if (element_at(self, field->offset, &element) < 0) {
        return NULL;
    }
    value = mc_value(self, &element);
    if (value == NULL) {
        return NULL;
    }
    PyObject *made = value;
    MC_SECTION_BEGIN(self);
    if (field->value != NULL) { /* another thread was faster */
        value = Py_NewRef(field->value);
    } else {
        mc_reveal(&field->value, Py_NewRef(made));
        Py_INCREF(made);
    }
    MC_SECTION_END();
    Py_DECREF(made);
    return value;
}
