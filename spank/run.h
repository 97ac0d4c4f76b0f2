/* How the plugin tells cmeta-run what to do: variables of the task's environment, which cmeta-run
 * takes out again before the runtime sees them. */
#ifndef CMETA_RUN_H
#define CMETA_RUN_H

#define CMETA_RUN_PREFIX "CMETA_RUN_"
#define CMETA_RUN_IMAGE "CMETA_RUN_IMAGE"     /* absolute path, or a reference to be pulled */
#define CMETA_RUN_RUNTIME "CMETA_RUN_RUNTIME" /* absolute path; absent: look for one */
#define CMETA_RUN_OPTION "CMETA_RUN_OPTION"   /* ...0, ...1: options of the runtime's exec */
#define CMETA_RUN_BIND "CMETA_RUN_BIND"       /* directory that the task needs from the host */
#define CMETA_RUN_PROGRAM "CMETA_RUN_PROGRAM" /* first argument of the task, where it was replaced */
#define CMETA_RUN_PULL "CMETA_RUN_PULL"       /* the command `cmeta`; absent: the one installed with us */
#define CMETA_RUN_STORE "CMETA_RUN_STORE"     /* below which the user's images are kept on the node */
#define CMETA_RUN_STORE_SIZE "CMETA_RUN_STORE_SIZE"
#define CMETA_RUN_PULL_TIMEOUT "CMETA_RUN_PULL_TIMEOUT" /* seconds */

#endif
