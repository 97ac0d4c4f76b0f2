/* The matcher's answer (docs/protocol.md). Pure: text in, struct out. */
#ifndef CMETA_ANSWER_H
#define CMETA_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

enum { CMETA_MAX_EXPRESSION = 1024 }; /* what slurmctld takes, see slurm_cmeta/constraint.py */

struct cmeta_answer {
	char *verdict;    /* match, mismatch, unknown */
	bool reject;
	char *constraint; /* NULL: leave the job's */
	char *prefer;     /* NULL: leave the job's */
	char *exclude;    /* NULL: nothing to exclude */
	char *memory;     /* MiB in decimal, for --mem; NULL: leave the job's */
	char *gres;       /* to add to the job's --gres; NULL: nothing */
	char *required;   /* what the image demands of every node; NULL: nothing */
	char *reason;     /* for the log: a code, then words; NULL: none */
	char *identity;   /* of the image that was looked at, for the log; NULL: none */
	bool cached;      /* the answer was kept from an earlier submission */
	char *pinned;     /* the reference asked for, by the digest that was looked at; NULL: no reference */
	char **messages;  /* NULL-terminated, may be NULL */
	size_t message_count;
};

/* Parse a whole answer of length bytes (not NUL-terminated). Returns false, and an empty answer,
 * for anything that is not a complete answer of this protocol. */
bool cmeta_answer_parse(const char *text, size_t length, struct cmeta_answer *answer);

/* True when text holds the line that ends an answer. */
bool cmeta_answer_is_complete(const char *text, size_t length);

/* True for what the node can pull: docker://... and oras://... */
bool cmeta_is_reference(const char *image);

void cmeta_answer_free(struct cmeta_answer *answer);

#endif
