/* control.h: what other threads ask of the loop.
 */
#ifndef RU_CONTROL_H
#define RU_CONTROL_H

struct ru_engine;

/* Thread: loop, between laps. Serve the call that is offered, if any. */
void ru_control_serve(struct ru_engine *engine);

#endif
