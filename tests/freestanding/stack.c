/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the bytes of stack that a run of the model cifar takes. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "cifar.h"

enum { SIZE = 1 << 20, PAINT = 0xa5 };

static _Alignas(4096) unsigned char stack[SIZE];
static _Alignas(CIFAR_ALIGNMENT) unsigned char input[CIFAR_INPUT0_BYTES];
static _Alignas(CIFAR_ALIGNMENT) unsigned char output[CIFAR_OUTPUT0_BYTES];
static _Alignas(CIFAR_ALIGNMENT) unsigned char workspace[CIFAR_WORKSPACE_BYTES];

static void *work(void *really) {
  if (really) cifar_run((float *)input, (float *)output, workspace);
  return 0;
}

static long used(void *really) {
  pthread_attr_t attributes;
  pthread_t thread;
  long untouched = 0;
  memset(stack, PAINT, SIZE);
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, stack, SIZE);
  pthread_create(&thread, &attributes, work, really);
  pthread_join(thread, 0);
  while (stack[untouched] == PAINT) ++untouched;
  return SIZE - untouched;
}

int main(void) {
  long thread_alone = used(0);
  printf("%ld\n", used(stack) - thread_alone);
  return 0;
}
