/* info.h - the section `ring` of INFO. */
#ifndef RING_MODULE_INFO_H
#define RING_MODULE_INFO_H

#include "redis_api.h"

void info_write(RedisModuleInfoCtx *ctx, int for_crash_report);

#endif
