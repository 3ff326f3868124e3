/* memo.h - what a document remembers, found and kept (document_object.h has the picture). */
#ifndef MMAPCACHE_MEMO_H
#define MMAPCACHE_MEMO_H

#include "document_object.h"
#include "mutant.h"

/* The remembered value for this very name object, borrowed, or NULL. */
static inline PyObject *mc_document_recall(const struct mc_document *self, const PyObject *name)
{
    const struct mc_memo *memo;
    if (mc_load(&self->first_name) == name) {
        return self->first_value;
    }
    memo = mc_load(&self->memo);
    if (memo != NULL) {
        uint32_t at = mc_memo_start(memo, name);
        const PyObject *there;
        while ((there = mc_load(&memo->slots[at].name)) != NULL) {
            if (there == name) {
                return memo->slots[at].value;
            }
            at = (at + 1) & memo->mask;
        }
    }
    return NULL;
}

static inline struct mc_memo *mc_memo_new(uint32_t slots)
{
    size_t size = sizeof(struct mc_memo) + slots * (sizeof(struct mc_memo_slot) + sizeof(uint32_t));
    struct mc_memo *memo = PyMem_Malloc(size);
    if (memo != NULL) {
        memset(memo, 0, size);
        memo->mask = slots - 1;
        memo->offsets = (uint32_t *)(void *)&memo->slots[slots];
    }
    return memo;
}

/* Takes over the references. There must be a free slot. */
static inline void mc_memo_put(struct mc_memo *memo, PyObject *name, PyObject *value,
                               uint32_t offset)
{
    uint32_t at = mc_memo_start(memo, name);
    while (memo->slots[at].name != NULL) {
        at = (at + 1) & memo->mask;
    }
    if (MC_MUTANT_IS(710)) { /* 710: the name before its value */
        mc_reveal(&memo->slots[at].name, name);
        mc_yield();
    }
    memo->slots[at].value = value;
    memo->offsets[at] = offset;
    memo->used++;
    mc_reveal(&memo->slots[at].name, name);
}

/* Puts another name object in the place of one, or of none. */
static inline void mc_name_replace(PyObject **place, PyObject *name)
{
    PyObject *old = *place;
    mc_reveal(place, Py_NewRef(name));
    Py_XDECREF(old);
}

/* Whose entries are elsewhere now; another thread may be reading it. */
static inline void mc_memo_retire(struct mc_document *self, struct mc_memo *memo)
{
#if MC_FREE_THREADED
    if (memo != NULL && MC_MUTANT_IS(711)) { /* 711: though others may be reading it */
        PyMem_Free(memo);
    } else if (memo != NULL) {
        memo->older = self->older;
        self->older = memo;
    }
#else
    (void)self;
    PyMem_Free(memo);
#endif
}

/* Within a section. */
static inline PyObject *mc_memo_by_offset(const struct mc_document *self, uint32_t offset,
                                          uint32_t *slot)
{
    const struct mc_memo *memo = self->memo;
    for (uint32_t i = 0; memo != NULL && i <= memo->mask; i++) {
        if (memo->slots[i].name != NULL && memo->offsets[i] == offset) {
            *slot = i;
            return memo->slots[i].value;
        }
    }
    return NULL;
}

/* Drops everything that the object remembers. */
static inline void mc_document_forget(struct mc_document *self)
{
    struct mc_memo *memo = self->memo;
    struct mc_index *index = self->index;
    self->memo = NULL;
    self->index = NULL;
    Py_CLEAR(self->first_name);
    Py_CLEAR(self->first_value);
    for (uint32_t i = 0; memo != NULL && i <= memo->mask; i++) {
        Py_XDECREF(memo->slots[i].name);
        Py_XDECREF(memo->slots[i].value);
    }
    for (uint32_t i = 0; index != NULL && i < index->count; i++) {
        Py_XDECREF(index->fields[i].name);
        Py_XDECREF(index->fields[i].value);
    }
    PyMem_Free(memo);
    PyMem_Free(index);
#if MC_FREE_THREADED
    while (self->older != NULL) {
        memo = self->older;
        self->older = memo->older;
        PyMem_Free(memo);
    }
#endif
}

#endif
