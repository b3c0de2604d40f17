/* accept.h: connections that are new to the engine.
 *
 * Thread: loop.
 */
#ifndef RU_ACCEPT_H
#define RU_ACCEPT_H

#include <stdbool.h>

struct ru_engine;
struct ru_event;

void ru_accept_event(struct ru_engine *engine, const struct ru_event *event);
/* While serving: start accepts that ended. */
void ru_accept_arm(struct ru_engine *engine);
/* Take the connections that another process has passed on, see ru_engine_adopt(). */
void ru_accept_adopt(struct ru_engine *engine);
/* Accept what the listeners' backlogs still hold, then, if so wanted, refuse further
 * connections. */
void ru_accept_drain(struct ru_engine *engine, bool refuse);

#endif
