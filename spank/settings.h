/* The arguments of the plugin's line in plugstack.conf. Every key is documented in
 * docs/plugstack.md; tests/unit/test_docs.py holds the two together. */
#ifndef CMETA_SETTINGS_H
#define CMETA_SETTINGS_H

enum cmeta_mode { CMETA_UNSET, CMETA_OFF, CMETA_ON, CMETA_EXPLAIN };

struct cmeta_settings {
	enum cmeta_mode default_mode; /* default= : when the user says nothing */
	const char *matcher;          /* matcher= : program that decides */
	const char *config;           /* config= : cmeta.yaml, or NULL for the one beside slurm.conf */
	const char *slurm_conf;       /* slurm_conf= : or NULL for Slurm's own */
	int deadline_ms;              /* deadline= : in the file in seconds */
	const char *run;              /* run= : program that starts the runtime on the node */
	const char *runtime;          /* runtime= : Apptainer or Singularity, NULL: look for it */
	const char *const *runtime_options; /* runtime_option= : NULL-terminated */
	const char *pull;             /* pull= : the command `cmeta` on the node, NULL: ours */
	const char *store;            /* store= : where pulled images are kept, NULL: the default */
	const char *store_size;       /* store_size= : the same */
	const char *pull_timeout;     /* pull_timeout= : seconds, the same */
	const char *log;              /* log= : socket that takes lines for the system's log, NULL: none */
	char *error;                  /* what is wrong with the line, or NULL */
	const char *wrong;            /* the argument that is wrong, or NULL */
};

/* Read the arguments. Never fails: a mistake is kept in error. The strings point into argv. */
void cmeta_settings_read(struct cmeta_settings *settings, int argc, char *const argv[]);

void cmeta_settings_free(struct cmeta_settings *settings);

/* "on", "off" or "explain"; CMETA_UNSET for anything else, NULL included. */
enum cmeta_mode cmeta_mode_parse(const char *text);

/* Where in plugstack.conf (and the files it includes) the argument stands: "FILE:LINE" on the heap,
 * or NULL. For messages only. */
char *cmeta_settings_locate(const char *slurm_conf, const char *argument);

#endif
