/* What the client hands over to the controller (job_desc.spank_job_env) and to the node (the job's
 * environment, where Slurm puts SLURM_SPANK_ before each name). lua/cmeta.lua reads the same names.
 * All of it is user input to whoever reads it. */
#ifndef CMETA_HANDOVER_H
#define CMETA_HANDOVER_H

#define CMETA_HANDOVER_IMAGE "CMETA_IMAGE"           /* absolute path or reference: the node runs the task in it */
#define CMETA_HANDOVER_PINNED "CMETA_PINNED"         /* the reference in CMETA_IMAGE, by its digest */
#define CMETA_HANDOVER_MULTI_PROG "CMETA_MULTI_PROG" /* "1": a step of srun --multi-prog */
#define CMETA_HANDOVER_VERDICT "CMETA_VERDICT"       /* match, mismatch, unknown; fault, off */
#define CMETA_HANDOVER_CONSTRAINT "CMETA_CONSTRAINT" /* the whole expression */
#define CMETA_HANDOVER_PREFER "CMETA_PREFER"         /* the whole expression */
#define CMETA_HANDOVER_EXCLUDE "CMETA_EXCLUDE"       /* only the nodes that we exclude */
#define CMETA_HANDOVER_MEMORY "CMETA_MEMORY"         /* MiB, where the user asks for no memory */
#define CMETA_HANDOVER_GRES "CMETA_GRES"             /* where the user asks for no GPU */
#define CMETA_HANDOVER_REQUIRED "CMETA_REQUIRED"     /* what the image demands of every node */
#define CMETA_HANDOVER_PREFERS "CMETA_PREFERS"       /* "image": the user has no --prefer */
/* For the controller's log alone. */
#define CMETA_HANDOVER_REASON "CMETA_REASON"         /* a code, then words */
#define CMETA_HANDOVER_IDENTITY "CMETA_IDENTITY"     /* of the image's file, or its digest */
#define CMETA_HANDOVER_TOOK "CMETA_TOOK"             /* milliseconds, and "cache" or "matcher" */
#define CMETA_HANDOVER_BEFORE "CMETA_BEFORE"         /* the user's own constraint, where it was changed */

/* The verdict where the matcher gave no answer. */
#define CMETA_VERDICT_FAULT "fault"

/* In place of the image's path: an srun whose components have different images. */
#define CMETA_SEVERAL_IMAGES "several"

#define CMETA_HANDOVER_ON_NODE "SLURM_SPANK_"

#endif
