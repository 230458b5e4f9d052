package org.bitspin;

import java.io.IOException;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;

/** A model file, ready to score images; for one thread at a time. */
public final class Bitspin implements AutoCloseable {
    static {
        System.loadLibrary("bitspin_jni");
    }

    private final MappedByteBuffer file; // the runtime reads from it as long as this lives
    private long handle;

    public Bitspin(Path model) throws IOException {
        try (FileChannel channel = FileChannel.open(model)) {
            file = channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size());
        }
        handle = open(file);
    }

    /** One score per class; the largest wins. The image is described in README.txt. */
    public int[] run(byte[] image) {
        if (handle == 0) throw new IllegalStateException("closed");
        return run(handle, image);
    }

    @Override
    public void close() {
        if (handle != 0) close(handle);
        handle = 0;
    }

    private static native long open(MappedByteBuffer file);

    private static native int[] run(long handle, byte[] image);

    private static native void close(long handle);
}
