/* config.h: the part of config.c that the engine alone calls. */
#ifndef RU_CONFIG_H
#define RU_CONFIG_H

#include "ru.h"

/* Thread: loop. Copy the fields that may change at run time. Workers read some of them meanwhile, so
 * each is stored at once. */
void ru_config_take_live(struct ru_config *config, const struct ru_config *changed);

#endif
