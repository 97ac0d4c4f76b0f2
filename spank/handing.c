#include "handing.h"

#include <stdio.h>
#include <stdlib.h>

#include "handover.h"
#include "record.h"
#include "text.h"

void cmeta_hand_forget(spank_t spank)
{
	static const char *const names[] = {
		CMETA_HANDOVER_IMAGE, CMETA_HANDOVER_PINNED, CMETA_HANDOVER_MULTI_PROG,
		CMETA_HANDOVER_VERDICT, CMETA_HANDOVER_CONSTRAINT, CMETA_HANDOVER_PREFER, CMETA_HANDOVER_EXCLUDE,
		CMETA_HANDOVER_MEMORY, CMETA_HANDOVER_GRES, CMETA_HANDOVER_REQUIRED,
		CMETA_HANDOVER_PREFERS, CMETA_HANDOVER_REASON, CMETA_HANDOVER_IDENTITY,
		CMETA_HANDOVER_TOOK, CMETA_HANDOVER_BEFORE,
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char *on_node = cmeta_format(CMETA_HANDOVER_ON_NODE "%s", names[i]);

		spank_job_control_unsetenv(spank, names[i]);
		if (on_node)
			unsetenv(on_node);
		free(on_node);
	}
}

void cmeta_hand_over(spank_t spank, const char *name, const char *value)
{
	if (value)
		spank_job_control_setenv(spank, name, value, 1);
}

void cmeta_hand_to_node(spank_t spank, const char *name, const char *value)
{
	char *on_node = cmeta_format(CMETA_HANDOVER_ON_NODE "%s", name);

	cmeta_hand_over(spank, name, value);
	if (on_node)
		setenv(on_node, value, 1);
	free(on_node);
}

void cmeta_hand_answer(spank_t spank, const struct cmeta_answer *answer, const struct cmeta_wishes *wishes)
{
	const char *own = wishes->constraint ? wishes->constraint : "";

	cmeta_hand_over(spank, CMETA_HANDOVER_VERDICT, answer->verdict);
	cmeta_hand_over(spank, CMETA_HANDOVER_CONSTRAINT, answer->constraint);
	cmeta_hand_over(spank, CMETA_HANDOVER_PREFER, answer->prefer);
	cmeta_hand_over(spank, CMETA_HANDOVER_EXCLUDE, answer->exclude);
	cmeta_hand_over(spank, CMETA_HANDOVER_MEMORY, wishes->memory ? NULL : answer->memory);
	cmeta_hand_over(spank, CMETA_HANDOVER_GRES, wishes->gpus ? NULL : answer->gres);
	cmeta_hand_over(spank, CMETA_HANDOVER_REQUIRED, answer->required);
	if (answer->prefer && !wishes->prefer)
		cmeta_hand_over(spank, CMETA_HANDOVER_PREFERS, "image");
	cmeta_hand_over(spank, CMETA_HANDOVER_REASON, answer->reason);
	cmeta_hand_over(spank, CMETA_HANDOVER_IDENTITY, answer->identity);
	if (answer->constraint)
		cmeta_hand_over(spank, CMETA_HANDOVER_BEFORE, own);
}

void cmeta_hand_took(spank_t spank, long ms, bool cached)
{
	char *took = cmeta_record_took(ms, cached);

	cmeta_hand_over(spank, CMETA_HANDOVER_TOOK, took);
	free(took);
}

void cmeta_hand_fault(spank_t spank, const char *fault)
{
	char *reason = cmeta_format("fault %s", fault ? fault : "out of memory");

	/* The nodes are told as well, so that the steps of the job do not find the same fault again. */
	cmeta_hand_to_node(spank, CMETA_HANDOVER_VERDICT, CMETA_VERDICT_FAULT);
	cmeta_hand_over(spank, CMETA_HANDOVER_REASON, reason);
	free(reason);
}
