/* handover.h: a connection's descriptor on its way to another process. Pure but for the one
 * send. */
#ifndef RU_HANDOVER_H
#define RU_HANDOVER_H

#include <stdint.h>

/* Send `fd` and the number of its listener through a Unix socket of sequenced packets, as
 * ru_engine_hand_over() describes. Does not wait. 0 or -errno. */
int ru_handover_send(int channel, uint8_t listener, int fd);

#endif
