/* test_age.c - how long ago the loader confirmed its data, whatever is done to the wall clock. */
#include <errno.h>

#include "faults.h"
#include "region.h"
#include "slots.h"
#include "store_support.h"

#define SECOND INT64_C(1000000000)
#define YEAR (365 * 86400 * SECOND)

static struct mc_writer *writer;
static struct mc_map *map;

static int64_t age_us(int64_t published_at)
{
    struct mc_loader_report report;
    mc_map_report(map, &report);
    return mc_map_age(map, &report, published_at);
}

static void confirm(int64_t at_us)
{
    mc_writer_report(writer, "polling", NULL, NULL, at_us, NULL);
}

static void begin(void)
{
    struct mc_writer_options options = small_options();
    faults_clock = 1000 * SECOND;
    faults_wall = 50 * YEAR;
    writer = open_new_cache(&options);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
}

static void end(void)
{
    mc_map_release(map);
    mc_writer_close(writer);
    faults_clock = -1;
    faults_wall = 0;
}

/* The reports of the file changed, as another boot or another host would have them. */
static void change_reports(void (*change)(struct mc_report *report))
{
    struct mc_view view;
    struct mc_report report;
    mc_writer_view(writer, &view);
    mc_report_read(&view.space, &report);
    change(&report);
    mc_report_write(&view.space, &report); /* the writer's next one takes the same place */
}

static void other_boot(struct mc_report *report)
{
    report->boot_id[3] ^= 1;
}

static void later_boot_clock(struct mc_report *report)
{
    report->confirmed_boot += 3600 * 1000000LL;
}

static void test_clock_is_set(void)
{
    begin();
    confirm(mc_time_us());
    CHECK_EQ(age_us(0), 0);
    faults_clock += 5 * SECOND;
    CHECK_EQ(age_us(0), 5000000);
    faults_wall -= YEAR; /* back */
    CHECK_EQ(age_us(0), 5000000);
    faults_clock += 5 * SECOND;
    CHECK_EQ(age_us(0), 10000000);
    faults_wall += 2 * YEAR; /* and ahead */
    CHECK_EQ(age_us(0), 10000000);
    mc_writer_report(writer, "degraded", NULL, NULL, -1, NULL); /* confirms nothing */
    CHECK_EQ(age_us(0), 10000000);
    confirm(mc_time_us());
    CHECK_EQ(age_us(0), 0);
    end();
}

/* A round confirms when it began, which is a moment before its report. */
static void test_confirmed_earlier(void)
{
    begin();
    int64_t began = mc_time_us();
    faults_clock += 3 * SECOND;
    confirm(began);
    CHECK_EQ(age_us(0), 3000000);
    began = mc_time_us();
    faults_wall -= YEAR; /* in the middle of the round: then as if it had just begun */
    faults_clock += 3 * SECOND;
    confirm(began);
    CHECK_EQ(age_us(0), 0);
    faults_clock += SECOND;
    CHECK_EQ(age_us(0), 1000000);
    end();
}

/* Where the boots differ, only the wall clock is common; and it may have been set back. */
static void test_elsewhere(void)
{
    begin();
    confirm(mc_time_us());
    change_reports(other_boot);
    faults_clock += 7 * SECOND;
    faults_wall += SECOND;
    CHECK_EQ(age_us(0), 8000000);
    faults_wall -= YEAR;
    CHECK_EQ(age_us(0), 0);
    faults_wall += YEAR;
    change_reports(other_boot); /* the same again */
    CHECK_EQ(age_us(0), 7000000);
    change_reports(later_boot_clock); /* of a time namespace */
    CHECK_EQ(age_us(0), 8000000);
    end();
}

static void test_never_confirmed(void)
{
    begin();
    int64_t published = mc_time_us();
    faults_clock += 2 * SECOND;
    CHECK_EQ(age_us(published), 2000000);
    faults_wall -= YEAR;
    CHECK_EQ(age_us(published), 0);
    end();
}

/* Where the kernel does not tell which boot it is, nobody knows whether two are the same. */
static void test_unknown_boot(void)
{
    struct mc_writer_options options = small_options();
    faults_clock = 1000 * SECOND;
    faults_wall = 50 * YEAR;
    remove_cache(test_path());
    faults_arm(FAULT_BIT(FAULT_OPEN), 0, false, ENOENT);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(faults_disarm(), 1);
    faults_arm(FAULT_BIT(FAULT_OPEN), 0, false, ENOENT);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(faults_disarm(), 1);
    confirm(mc_time_us());
    faults_clock += 2 * SECOND;
    faults_wall += SECOND;
    CHECK_EQ(age_us(0), 3000000);
    end();
}

static void first_moment(struct mc_report *report)
{
    report->confirmed_boot = INT64_MIN;
}

static void first_date(struct mc_report *report)
{
    report->confirmed_at = INT64_MIN;
    report->boot_id[3] ^= 1;
}

/* Whatever the file says, the difference is a number. */
static void test_longest(void)
{
    begin();
    confirm(mc_time_us());
    change_reports(first_moment);
    CHECK_EQ(age_us(0), INT64_MAX);
    change_reports(first_date);
    CHECK_EQ(age_us(0), INT64_MAX);
    end();
    begin();
    CHECK_EQ(age_us(INT64_MIN), INT64_MAX);
    CHECK_EQ(age_us(INT64_MAX), 0);
    end();
}

int main(void)
{
    test_begin("test_age");
    if (PORTABLE) { /* it is the wall clock's, as where the boot is unknown */
        printf("test_age: skipped: ages by a clock that nobody sets: the boot is not known\n");
    } else {
        test_clock_is_set();
        test_confirmed_earlier();
        test_elsewhere();
        test_unknown_boot();
        test_longest();
    }
    test_never_confirmed();
    remove_cache(test_path());
    return 0;
}
