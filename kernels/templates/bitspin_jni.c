/* What Bitspin.java calls; build it with libbitspin.a into libbitspin_jni.so. */
#include "bitspin.h"

#include <jni.h>
#include <stdlib.h>

typedef struct {
    bs_model model;
    void *arena;
} session;

static session *of(jlong handle) { return (session *)(intptr_t)handle; }

static void *throw_line(JNIEnv *env, const char *type, const char *line)
{
    (*env)->ThrowNew(env, (*env)->FindClass(env, type), line);
    return NULL;
}

/* The buffer is direct, page-aligned (FileChannel.map) and kept alive by the Java object. */
JNIEXPORT jlong JNICALL Java_org_bitspin_Bitspin_open(JNIEnv *env, jclass type, jobject file)
{
    (void)type;
    session *opened = malloc(sizeof *opened);
    if (!opened) return (jlong)(intptr_t)throw_line(env, "java/lang/OutOfMemoryError", "model");
    int error = bs_open(&opened->model, (*env)->GetDirectBufferAddress(env, file),
                        (uint64_t)(*env)->GetDirectBufferCapacity(env, file));
    opened->arena = error ? NULL : malloc((size_t)bs_arena_bytes(&opened->model));
    if (opened->arena) return (jlong)(intptr_t)opened;
    free(opened);
    if (!error) return (jlong)(intptr_t)throw_line(env, "java/lang/OutOfMemoryError", "arena");
    return (jlong)(intptr_t)throw_line(env, "java/lang/IllegalArgumentException",
                                       bs_strerror(error));
}

JNIEXPORT jintArray JNICALL Java_org_bitspin_Bitspin_run(JNIEnv *env, jclass type, jlong handle,
                                                         jbyteArray image)
{
    (void)type;
    session *s = of(handle);
    if ((uint64_t)(*env)->GetArrayLength(env, image) != bs_input_bytes(&s->model))
        return throw_line(env, "java/lang/IllegalArgumentException", "not the size of one input");
    jintArray scores = (*env)->NewIntArray(env, (jsize)bs_output_count(&s->model));
    if (!scores) return NULL;
    jbyte *source = (*env)->GetByteArrayElements(env, image, NULL);
    jint *target = (*env)->GetIntArrayElements(env, scores, NULL);
    int error = bs_run(&s->model, s->arena, source, (int32_t *)target);
    (*env)->ReleaseIntArrayElements(env, scores, target, 0);
    (*env)->ReleaseByteArrayElements(env, image, source, JNI_ABORT);
    if (error) return throw_line(env, "java/lang/IllegalStateException", bs_strerror(error));
    return scores;
}

JNIEXPORT void JNICALL Java_org_bitspin_Bitspin_close(JNIEnv *env, jclass type, jlong handle)
{
    (void)env, (void)type;
    free(of(handle)->arena);
    free(of(handle));
}
