/* place.c - see place.h.
 *
 * A mistyped path is refused without a trace: PATH.lock beside a program, or in a directory that
 * was meant as the path, would be a riddle for whoever finds it.
 */
#include "place.h"

#include "mutant.h"
#include "region.h"
#include "store.h"

enum mc_status mc_place_check(const char *path, const struct mc_writer_options *options,
                              struct mc_error *err)
{
    struct mc_region region;
    struct mc_superblock superblock;
    enum mc_status status = mc_region_open(path, true, MC_OWNER_TRUSTED, &region, err);
    if (status == MC_OK) {
        status = mc_superblock_read(&region, &superblock, path, err);
        mc_region_close(&region);
    }
    bool replaceable = options->recreate && !mc_path_is_directory(path);
    bool refused = status == MC_OS || (status == MC_FORMAT && !replaceable);
    return refused && !MC_MUTANT_IS(660) ? status : MC_OK; /* 660: a wrong path gets its lock */
}
