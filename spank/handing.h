/* Hands over, from the client to the controller and to the node (handover.h). */
#ifndef CMETA_HANDING_H
#define CMETA_HANDING_H

#include <stdbool.h>

#include <slurm/spank.h>

#include "answer.h"
#include "wishes.h"

/* A nested submission inherits what the outer one handed over; it must never act on it. */
void cmeta_hand_forget(spank_t spank);

/* To the controller; nothing where value is NULL. */
void cmeta_hand_over(spank_t spank, const char *name, const char *value);

/* For the node: sbatch puts what is handed over into the job's environment, srun and salloc do not. */
void cmeta_hand_to_node(spank_t spank, const char *name, const char *value);

/* An answer, but for what the user's own wishes leave no room for. */
void cmeta_hand_answer(spank_t spank, const struct cmeta_answer *answer, const struct cmeta_wishes *wishes);

/* That there is no answer, and why; NULL: no memory for a sentence. */
void cmeta_hand_fault(spank_t spank, const char *fault);

/* How long the decision took. */
void cmeta_hand_took(spank_t spank, long ms, bool cached);

#endif
