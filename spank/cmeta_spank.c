/* The plugin's entry points: which context does what. Nothing else is global.
 *
 * From remote context nothing ever returns an error: it would drain the node. */
#include <stdlib.h>

#include <slurm/slurm.h>
#include <slurm/spank.h>

#include "settings.h"
#include "submit.h"
#include "task.h"
#include "text.h"

SPANK_PLUGIN(cmeta, 1)

#define DIGITS(number) '0' + (number) / 10 % 10, '0' + (number) % 10

/* What `cmeta doctor` looks for in the file, without loading it: slurm_cmeta/doctor/plugin.py. */
static const struct {
	char text[sizeof("cmeta_spank " CMETA_VERSION " for Slurm ") - 1];
	char release[6];
} mark __attribute__((used)) = {
	"cmeta_spank " CMETA_VERSION " for Slurm ",
	{DIGITS(SLURM_VERSION_NUMBER >> 16 & 0xff), '.', DIGITS(SLURM_VERSION_NUMBER >> 8 & 0xff), '\0'},
};

static enum cmeta_mode chosen_mode; /* --cmeta= on the command line or in #SBATCH */

static int read_option(int value, const char *argument, int remote)
{
	enum cmeta_mode mode = cmeta_mode_parse(argument);

	(void)value;
	if (mode != CMETA_UNSET)
		chosen_mode = mode;
	/* An unknown word on the node was taken at submit by another release: not ours to refuse. */
	return mode == CMETA_UNSET && !remote ? -1 : 0;
}

static struct spank_option option = {
	.name = (char[]){"cmeta"},
	.arginfo = (char[]){"on|off|explain"},
	.usage = (char[]){"match the job's --container image with the nodes: on, off, or explain "
			  "each reason"},
	.has_arg = 1,
	.val = 0,
	.cb = read_option,
};

static enum cmeta_mode mode_in_force(const struct cmeta_settings *settings)
{
	enum cmeta_mode from_environment = cmeta_mode_parse(getenv("CMETA"));

	if (chosen_mode != CMETA_UNSET)
		return chosen_mode;
	return from_environment != CMETA_UNSET ? from_environment : settings->default_mode;
}

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	switch (spank_context()) {
	case S_CTX_ALLOCATOR:
	case S_CTX_LOCAL:
	case S_CTX_REMOTE: /* so that slurmstepd knows the option that srun passes on */
		spank_option_register(spank, &option);
		break;
	default:
		break;
	}
	return 0;
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	struct cmeta_settings settings;
	spank_context_t context = spank_context();

	if (context != S_CTX_ALLOCATOR && context != S_CTX_LOCAL)
		return 0;
	cmeta_settings_read(&settings, argc, argv);
	cmeta_submit(spank, &settings, mode_in_force(&settings));
	cmeta_settings_free(&settings);
	return 0;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	struct cmeta_settings settings;

	if (spank_context() != S_CTX_REMOTE)
		return 0;
	cmeta_settings_read(&settings, argc, argv);
	cmeta_task_init(spank, &settings);
	cmeta_settings_free(&settings);
	return 0;
}
