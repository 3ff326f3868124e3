/* test_place.c - a wrong path is refused, and nothing is left beside it. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_support.h"

static char beside[96];

static bool is_there(const char *suffix)
{
    struct stat file;
    (void)snprintf(beside, sizeof beside, "%s%s", test_path(), suffix);
    return lstat(beside, &file) == 0;
}

static void expect(enum mc_status expected, bool recreate)
{
    struct mc_writer *writer;
    struct mc_writer_options options = small_options();
    options.recreate = recreate;
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), expected);
    CHECK(test_error.text[0] != '\0');
    CHECK(!is_there(MC_LOCK_SUFFIX) && !is_there(".new") && is_there(""));
}

static void put_file(const char *content, mode_t mode)
{
    int fd = open(test_path(), O_CREAT | O_WRONLY | O_EXCL, mode);
    CHECK(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    CHECK(fchmod(fd, mode) == 0 && close(fd) == 0);
}

static void test_nothing_is_left(void)
{
    remove_cache(test_path());
    CHECK(symlink("/nowhere", test_path()) == 0);
    expect(MC_FORMAT, false);
    CHECK(unlink(test_path()) == 0);

    put_file("", 0600);
    expect(MC_FORMAT, false);
    CHECK(unlink(test_path()) == 0);

    put_file("#!/bin/sh\necho this is somebody's program and long enough to be looked at\n", 0700);
    expect(MC_FORMAT, false);
    CHECK(unlink(test_path()) == 0);

    if (geteuid() != 0) {
        put_file("", 0);
        expect(MC_OS, false);
        expect(MC_OS, true);
        CHECK(unlink(test_path()) == 0);
    }

    CHECK(mkdir(test_path(), 0700) == 0);
    expect(MC_FORMAT, false);
    expect(MC_FORMAT, true); /* a file cannot replace it */
    CHECK(rmdir(test_path()) == 0);
}

static void test_no_directory(void)
{
    struct mc_writer *writer;
    struct mc_writer_options options = small_options();
    char path[96];
    (void)snprintf(path, sizeof path, "%s.none/cache", test_path());
    CHECK_EQ(mc_writer_open(path, &options, &writer, &test_error), MC_OS);
    CHECK_EQ(test_error.os_errno, ENOENT);
    CHECK(strstr(test_error.text, "there is no directory for ") != NULL);
}

/* What is in the way may still be replaced where that was asked for. */
static void test_recreate(void)
{
    struct mc_writer *writer;
    struct mc_writer_options options = small_options();
    options.recreate = true;
    remove_cache(test_path());
    put_file("not a cache", 0600);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_close(writer);
    remove_cache(test_path());
}

int main(void)
{
    test_nothing_is_left();
    test_no_directory();
    test_recreate();
    return 0;
}
