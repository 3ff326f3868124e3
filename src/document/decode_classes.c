/* decode_classes.c - the BSON types that need a class: dates, UUIDs, those of bson.
 *
 * Dates and UUIDs come from Python's own library. The rest are the classes of PyMongo's bson
 * package, which is imported when the first such value is touched and not before. Two of them are
 * frequent and slow to make by calling the class, which checks what we know: ObjectId and UUID are
 * filled through their slots instead, once a trial has shown that the class still works that way.
 *
 * Where bson is not installed, an ObjectId is our own object_id and a DBRef the subdocument that it
 * is; a value of another of its classes is an ImportError that says what to install, or, where it
 * has to be shown and not used, a RareValue (options->rare).
 */
#include "decode_classes.h"

#include "classes.h"
#include "decode.h"

enum { UUID_STANDARD = 4, UUID_JAVA_LEGACY = 5, UUID_CSHARP_LEGACY = 6 };
enum { DATETIME = 1, DATETIME_CLAMP = 2, DATETIME_MS = 3 };

/* ---- dates ---- */

/* Days since 1970 to year, month, day in the proleptic Gregorian calendar, by way of eras of 400
 * years that begin in March (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms). */
static void civil_from_days(int64_t days, int *year, int *month, int *day)
{
    int64_t shifted = days + 719468, era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int of_era = (int)(shifted - era * 146097);
    int year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int from_march = (5 * of_year + 2) / 153;
    *day = of_year - (153 * from_march + 2) / 5 + 1;
    *month = from_march < 10 ? from_march + 3 : from_march - 9;
    *year = (int)(year_of_era + era * 400) + (*month <= 2);
}

/* class(fields[0], ..., fields[6], tzinfo), tzinfo only if it is not NULL. */
static PyObject *call_datetime(PyObject *cls, const int fields[7], PyObject *tzinfo)
{
    PyObject *args[9] = {NULL}, *value = NULL; /* args[0] is for PY_VECTORCALL_ARGUMENTS_OFFSET */
    int made = 0;
    while (made < 7 && (args[1 + made] = PyLong_FromLong(fields[made])) != NULL) {
        made++;
    }
    args[8] = tzinfo;
    if (made == 7) {
        value = PyObject_Vectorcall(
            cls, args + 1, (tzinfo != NULL ? 8 : 7) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    while (made > 0) {
        Py_DECREF(args[made--]);
    }
    return value;
}

static PyObject *datetime_from_millis(struct mc_options *options, int64_t millis)
{
    int64_t days = millis / 86400000, rest = millis % 86400000;
    PyObject *cls = mc_document_class(options->state, MC_CLASS_DATETIME), *value, *local;
    int fields[7], second; /* year, month, day, hour, minute, second, microsecond */
    if (cls == NULL) {
        return NULL;
    }
    if (rest < 0) {
        rest += 86400000;
        days--;
    }
    civil_from_days(days, &fields[0], &fields[1], &fields[2]);
    second = (int)(rest / 1000);
    fields[3] = second / 3600;
    fields[4] = second / 60 % 60;
    fields[5] = second % 60;
    fields[6] = (int)(rest % 1000) * 1000;
    value = call_datetime(cls, fields, options->utc);
    if (value == NULL || options->tzinfo == NULL) {
        return value;
    }
    local = PyObject_CallMethodOneArg(value, options->state->texts[MC_TEXT_ASTIMEZONE],
                                      options->tzinfo);
    Py_DECREF(value);
    return local;
}

static PyObject *date(struct mc_options *options, int64_t millis)
{
    bool outside = millis < options->min_millis || millis > options->max_millis;
    if (options->datetime_conversion == DATETIME && outside) {
        PyErr_Format(PyExc_ValueError,
                     "a date %lld ms from 1970 is outside of datetime's years: read it with "
                     "CodecOptions(datetime_conversion=DATETIME_AUTO)",
                     (long long)millis);
        return NULL;
    }
    if (options->datetime_conversion == DATETIME_CLAMP && outside) {
        millis = millis < options->min_millis ? options->min_millis : options->max_millis;
    } else if (options->datetime_conversion == DATETIME_MS || outside) {
        PyObject *cls = mc_document_class(options->state, MC_CLASS_DATETIME_MS);
        return cls != NULL ? PyObject_CallFunction(cls, "L", (long long)millis) : NULL;
    }
    return datetime_from_millis(options, millis);
}

/* ---- UUID and binary ---- */

static uint64_t big_endian(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return __builtin_bswap64(word);
}

/* uuid.UUID with the 128-bit number whose halves these are. */
static PyObject *uuid_from_halves(struct mc_document_state *state, uint64_t high, uint64_t low)
{
    PyTypeObject *cls = (PyTypeObject *)mc_document_class(state, MC_CLASS_UUID);
    PyObject *parts[3] = {NULL, NULL, NULL}, *number = NULL, *uuid = NULL;
    if (cls == NULL) {
        return NULL;
    }
    parts[0] = PyLong_FromUnsignedLongLong(high);
    parts[1] = PyLong_FromLong(64);
    if (parts[0] != NULL && parts[1] != NULL) {
        parts[2] = PyNumber_Lshift(parts[0], parts[1]);
    }
    Py_XSETREF(parts[1], PyLong_FromUnsignedLongLong(low));
    if (parts[2] != NULL && parts[1] != NULL) {
        number = PyNumber_Or(parts[2], parts[1]);
    }
    if (number != NULL) {
        uuid = cls->tp_alloc(cls, 0);
    }
    /* UUID's own __setattr__ forbids this: it makes UUIDs immutable once they are there */
    if (uuid != NULL &&
        (PyObject_GenericSetAttr(uuid, state->texts[MC_TEXT_INT], number) < 0 ||
         PyObject_GenericSetAttr(uuid, state->texts[MC_TEXT_IS_SAFE], state->uuid_unknown) < 0)) {
        Py_CLEAR(uuid);
    }
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(parts[i]);
    }
    Py_XDECREF(number);
    return uuid;
}

void mc_uuid_order(uint8_t representation, const uint8_t from[16], uint8_t to[16])
{
    static const uint8_t java[16] = {7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8};
    static const uint8_t csharp[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int i = 0; i < 16; i++) {
        to[i] = from[representation == UUID_JAVA_LEGACY     ? java[i]
                     : representation == UUID_CSHARP_LEGACY ? csharp[i]
                                                            : i];
    }
}

static PyObject *uuid_from_bytes(struct mc_options *options, const uint8_t *bytes)
{
    uint8_t ordered[16];
    mc_uuid_order(options->uuid_representation, bytes, ordered);
    return uuid_from_halves(options->state, big_endian(ordered), big_endian(ordered + 8));
}

static PyObject *binary(struct mc_options *options, const uint8_t *value, uint32_t value_len)
{
    uint8_t subtype = value[4], representation = options->uuid_representation;
    const char *data = (const char *)value + 5;
    Py_ssize_t len = (Py_ssize_t)value_len - 5;
    bool uuid = subtype == 4
                    ? representation == UUID_STANDARD
                    : subtype == 3 && representation != 0 && representation != UUID_STANDARD;
    PyObject *cls;
    if (subtype == 0) {
        return PyBytes_FromStringAndSize(data, len);
    }
    if (uuid && len == 16) {
        return uuid_from_bytes(options, value + 5);
    }
    if (subtype == 2 && len >= 4) { /* the old one repeats the length inside */
        data += 4;
        len -= 4;
    }
    cls = mc_document_class(options->state, MC_CLASS_BINARY);
    return cls != NULL ? PyObject_CallFunction(cls, "y#i", data, len, (int)subtype) : NULL;
}

/* ---- bson's own ---- */

static PyObject *objectid(struct mc_document_state *state, const uint8_t *bytes)
{
    PyObject *cls, *oid = NULL, *data;
    int have = mc_have_bson(state);
    if (have <= 0) {
        return have < 0 ? NULL : mc_object_id_new(state, bytes);
    }
    cls = mc_load(&state->classes[MC_CLASS_OBJECTID]);
    data = PyBytes_FromStringAndSize((const char *)bytes, 12);
    if (data == NULL) {
        return NULL;
    }
    if (!mc_peek(&state->objectid_direct)) {
        oid = PyObject_CallOneArg(cls, data);
    } else {
        oid = ((PyTypeObject *)cls)->tp_alloc((PyTypeObject *)cls, 0);
        if (oid != NULL && PyObject_GenericSetAttr(oid, state->texts[MC_TEXT_OID], data) < 0) {
            Py_CLEAR(oid);
        }
    }
    Py_DECREF(data);
    return oid;
}

static PyObject *regex(struct mc_document_state *state, const uint8_t *value, uint32_t value_len)
{
    static const char letters[] = "..ilmsux"; /* re's flags in the order of their bits, from 2 on */
    PyObject *cls = mc_document_class(state, MC_CLASS_REGEX);
    const uint8_t *nul = memchr(value, 0, value_len), *end = value + value_len;
    PyObject *text;
    int flags = 0;
    if (cls == NULL || nul == NULL) {
        return cls == NULL ? NULL : mc_value_corrupt(state);
    }
    text = mc_text(state, value, (size_t)(nul - value));
    for (const uint8_t *letter = nul + 1; letter < end && *letter != 0; letter++) {
        const char *found = memchr(letters + 2, *letter, sizeof letters - 3);
        flags |= found != NULL ? 1 << (found - letters - 1) : 0;
    }
    return text != NULL ? PyObject_CallFunction(cls, "Ni", text, flags) : NULL;
}

/* A text of a value that begins with its length: `left` bytes are there. */
static PyObject *sized_text(struct mc_document_state *state, const uint8_t *at, size_t left)
{
    size_t size = left >= 5 ? mc_bson_u32(at) : 0;
    if (size < 1 || size > left - 4) {
        return mc_value_corrupt(state);
    }
    return mc_text(state, at + 4, size - 1);
}

static PyObject *dbpointer(struct mc_document_state *state, const uint8_t *value, uint32_t len)
{
    PyObject *cls = mc_document_class(state, MC_CLASS_DBREF), *text, *oid;
    if (cls == NULL) {
        return NULL;
    }
    text = sized_text(state, value, len - 12);
    oid = text != NULL ? objectid(state, value + len - 12) : NULL;
    if (oid == NULL) {
        Py_XDECREF(text);
        return NULL;
    }
    return PyObject_CallFunction(cls, "NN", text, oid);
}

static PyObject *code(struct mc_options *options, const struct mc_bson_element *element,
                      unsigned depth)
{
    struct mc_document_state *state = options->state;
    PyObject *cls = mc_document_class(state, MC_CLASS_CODE), *text, *scope;
    const uint8_t *value = element->value;
    size_t len = element->value_len, size;
    if (cls == NULL) {
        return NULL;
    }
    if (element->type == MC_BSON_CODE) {
        text = sized_text(state, value, len);
        return text != NULL ? PyObject_CallFunction(cls, "N", text) : NULL;
    }
    text = sized_text(state, value + 4, len - 4);
    if (text == NULL) {
        return NULL;
    }
    size = 8 + mc_bson_u32(value + 4);
    scope = mc_plain_document(options, value + size, len - size, depth);
    if (scope == NULL) {
        Py_DECREF(text);
        return NULL;
    }
    return PyObject_CallFunction(cls, "NN", text, scope);
}

static PyObject *decimal128(struct mc_document_state *state, const uint8_t *value)
{
    PyObject *cls = mc_document_class(state, MC_CLASS_DECIMAL128), *decimal = NULL;
    PyObject *data = cls != NULL ? PyBytes_FromStringAndSize((const char *)value, 16) : NULL;
    if (data != NULL) {
        decimal = mc_call_method(cls, "from_bid", data);
        Py_DECREF(data);
    }
    return decimal;
}

static PyObject *scalar(struct mc_options *options, const struct mc_bson_element *element,
                        unsigned depth)
{
    struct mc_document_state *state = options->state;
    const uint8_t *value = element->value;
    PyObject *cls;
    switch (element->type) {
    case MC_BSON_OID:
        return objectid(state, value);
    case MC_BSON_DATETIME:
        return date(options, (int64_t)mc_bson_u64(value));
    case MC_BSON_BINARY:
        return binary(options, value, element->value_len);
    case MC_BSON_REGEX:
        return regex(state, value, element->value_len);
    case MC_BSON_DBPOINTER:
        return dbpointer(state, value, element->value_len);
    case MC_BSON_CODE:
    case MC_BSON_CODE_SCOPE:
        return code(options, element, depth);
    case MC_BSON_TIMESTAMP:
        cls = mc_document_class(state, MC_CLASS_TIMESTAMP);
        return cls == NULL
                   ? NULL
                   : PyObject_CallFunction(cls, "II", mc_bson_u32(value + 4), mc_bson_u32(value));
    case MC_BSON_DECIMAL128:
        return decimal128(state, value);
    case MC_BSON_MINKEY:
        cls = mc_document_class(state, MC_CLASS_MINKEY);
        return cls == NULL ? NULL : PyObject_CallNoArgs(cls);
    case MC_BSON_MAXKEY:
        cls = mc_document_class(state, MC_CLASS_MAXKEY);
        return cls == NULL ? NULL : PyObject_CallNoArgs(cls);
    default:
        return mc_value_corrupt(state);
    }
}

PyObject *mc_scalar(struct mc_options *options, const struct mc_bson_element *element,
                    unsigned depth)
{
    PyObject *value = scalar(options, element, depth);
    if (value == NULL && options->rare && mc_only_bson_missing(options->state)) {
        return mc_rare_value(options->state, element);
    }
    return value;
}

PyObject *mc_dbref_or(struct mc_options *options, PyObject *dict)
{
    struct mc_document_state *state = options->state;
    PyObject *ref = PyDict_GetItemWithError(dict, state->texts[MC_TEXT_DOLLAR_REF]);
    PyObject *id = PyDict_GetItemWithError(dict, state->texts[MC_TEXT_DOLLAR_ID]);
    PyObject *database = PyDict_GetItemWithError(dict, state->texts[MC_TEXT_DOLLAR_DB]);
    PyObject *cls, *result;
    int have;
    if (ref == NULL || id == NULL || !PyUnicode_Check(ref) ||
        (database != NULL && database != Py_None && !PyUnicode_Check(database))) {
        return dict;
    }
    have = mc_have_bson(state);
    if (have == 0) {
        return dict; /* which says the same */
    }
    cls = have > 0 ? mc_document_class(state, MC_CLASS_DBREF) : NULL;
    if (cls == NULL) {
        Py_DECREF(dict);
        return NULL;
    }
    Py_INCREF(ref);
    Py_INCREF(id);
    Py_XINCREF(database);
    result = NULL;
    if (PyDict_DelItem(dict, state->texts[MC_TEXT_DOLLAR_REF]) == 0 &&
        PyDict_DelItem(dict, state->texts[MC_TEXT_DOLLAR_ID]) == 0 &&
        (database == NULL || PyDict_DelItem(dict, state->texts[MC_TEXT_DOLLAR_DB]) == 0)) {
        result = PyObject_CallFunctionObjArgs(cls, ref, id, database != NULL ? database : Py_None,
                                              dict, NULL);
    }
    Py_DECREF(ref);
    Py_DECREF(id);
    Py_XDECREF(database);
    Py_DECREF(dict);
    return result;
}
