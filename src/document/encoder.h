/* encoder.h - what encode.c and encode_classes.c share: one document that is being written. */
#ifndef MMAPCACHE_ENCODER_H
#define MMAPCACHE_ENCODER_H

#include "document.h"

enum { MC_ENCODE_SMALL = 1024 };

struct mc_encoder {
    struct mc_options *options;
    PyObject *field; /* borrowed: where we are, for messages; or NULL */
    uint8_t *data;   /* small, or from PyMem_Malloc */
    size_t len, capacity;
    uint8_t small[MC_ENCODE_SMALL];
};

/* The name of an element; its value's text belongs to somebody else. */
struct mc_encode_name {
    const char *text;
    size_t len;
};

/* Sets an exception that names the field; NULL stands for InvalidDocument. Always -1. */
int mc_unfit(struct mc_encoder *self, PyObject *exception, const char *format, ...);

/* One element each: 0, or -1 with an exception. `depth` is that of the document around it. */
int mc_write_value(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                   unsigned depth);
int mc_write_copy(struct mc_encoder *self, struct mc_encode_name name, uint8_t type,
                  const void *value, size_t len);
int mc_write_binary(struct mc_encoder *self, struct mc_encode_name name, uint8_t subtype,
                    const void *data, size_t len);
int mc_write_text(struct mc_encoder *self, struct mc_encode_name name, PyObject *value);
int mc_write_int(struct mc_encoder *self, struct mc_encode_name name, PyObject *value, bool wide);
int mc_write_datetime(struct mc_encoder *self, struct mc_encode_name name, PyObject *value);
int mc_write_nested(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                    bool array, unsigned depth);

/* A value that is of no plain type itself. */
int mc_write_other(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                   unsigned depth);

/* Of a type that is derived from a plain one, or any other Mapping: 1 when it was written, 0 when
 * it is none, -1. */
int mc_write_derived(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                     unsigned depth);

#endif
