/* writer_object.c - who may use a writer now. */
#include "writer_object.h"

#include "errors.h"

struct mc_writer *mc_writer_enter(mc_writer_object *self)
{
    if (self->writer == NULL) {
        return (void *)mc_raise_text(self->module, MC_CLOSED, "this writer was closed");
    }
    if (!mc_writer_is_mine(self->writer)) {
        return (void *)mc_raise_text(
            self->module, MC_CLOSED,
            "this writer belongs to the process that opened it: a forked child opens its own");
    }
    if (self->busy) {
        return (void *)mc_raise_text(
            self->module, MC_USAGE,
            "another thread is using this writer: let one thread at a time use it");
    }
    return self->writer;
}

void mc_writer_leave(mc_writer_object *self)
{
    bool batch = self->lost_batch, replace = self->lost_replace;
    self->busy = self->lost_batch = self->lost_replace = false;
    if (batch) {
        mc_batch_abort(self->writer);
    } else if (replace) {
        mc_replace_cancel(self->writer);
    }
}

void mc_writer_lost(mc_writer_object *self, bool batch)
{
    if (self->writer == NULL || !mc_writer_is_mine(self->writer)) {
        return; /* closed, which abandoned it, or the parent's */
    }
    *(batch ? &self->lost_batch : &self->lost_replace) = true;
    if (!self->busy) {
        mc_writer_leave(self);
    }
}
