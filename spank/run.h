/* How the plugin tells cmeta-run what to do: variables of the task's environment, which cmeta-run
 * takes out again before the runtime sees them. */
#ifndef CMETA_RUN_H
#define CMETA_RUN_H

#define CMETA_RUN_PREFIX "CMETA_RUN_"
#define CMETA_RUN_IMAGE "CMETA_RUN_IMAGE"     /* absolute path */
#define CMETA_RUN_RUNTIME "CMETA_RUN_RUNTIME" /* absolute path; absent: look for one */
#define CMETA_RUN_OPTION "CMETA_RUN_OPTION"   /* ...0, ...1: options of the runtime's exec */
#define CMETA_RUN_BIND "CMETA_RUN_BIND"       /* directory that the task needs from the host */
#define CMETA_RUN_PROGRAM "CMETA_RUN_PROGRAM" /* first argument of the task, where it was replaced */

#endif
