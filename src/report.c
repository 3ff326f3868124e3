/* report.c - what a loader says of itself: that it runs, its state, its source, its last error.
 * Moves without a commit; store.c writes it into one of two slots. */
#include <string.h>

#include "writer_state.h"

void mc_writer_running(struct mc_writer *writer, bool running)
{
    mc_status_read(&writer->table.space, &writer->report);
    writer->report.running = running;
    writer->report.pid = mc_process();
    mc_status_write(&writer->table.space, &writer->report);
}

/* Copies a NUL-terminated string into a field, cut at a character's start when it is too long. */
static void report_text(char *field, size_t size, const char *text)
{
    size_t len = strlen(text);
    if (len >= size) {
        len = size - 1;
        while (len > 0 && ((uint8_t)text[len] & 0xC0) == 0x80) {
            len--;
        }
    }
    memset(field, 0, size);
    memcpy(field, text, len);
}

void mc_writer_report(struct mc_writer *writer, const char *state, const char *error,
                      const char *source, int64_t confirmed_at_us)
{
    struct mc_status_slot *report = &writer->report;
    if (state != NULL) {
        report_text(report->state, sizeof report->state, state);
    }
    if (error != NULL) {
        report_text(report->error, sizeof report->error, error);
    }
    if (source != NULL) {
        report_text(report->source, sizeof report->source, source);
    }
    if (confirmed_at_us >= 0) {
        report->confirmed_at = confirmed_at_us;
    }
    mc_status_write(&writer->table.space, report);
}
