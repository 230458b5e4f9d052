import CBitspin
import Foundation

/// A model file, ready to score images; for one thread at a time.
public final class Bitspin {
    public struct Failure: Error { public let message: String }

    private let file: UnsafeMutableRawPointer  // stays where it is: the runtime reads from it
    private let arena: UnsafeMutableRawPointer
    private var model = bs_model()

    public init(contentsOf url: URL) throws {
        let data = try Data(contentsOf: url)
        file = .allocate(byteCount: max(data.count, 1), alignment: 64)
        data.copyBytes(to: file.assumingMemoryBound(to: UInt8.self), count: data.count)
        let error = bs_open(&model, file, UInt64(data.count))
        let arenaBytes = error == 0 ? Int(bs_arena_bytes(&model)) : 0
        arena = .allocate(byteCount: max(arenaBytes, 1), alignment: 64)
        if error != 0 { throw Failure(message: String(cString: bs_strerror(error))) }
    }

    deinit {
        file.deallocate()
        arena.deallocate()
    }

    /// One score per class; the largest wins. The image is described in README.txt.
    public func run(_ image: [UInt8]) throws -> [Int32] {
        guard UInt64(image.count) == bs_input_bytes(&model) else {
            throw Failure(message: "not the size of one input")
        }
        var scores = [Int32](repeating: 0, count: Int(bs_output_count(&model)))
        let error = bs_run(&model, arena, image, &scores)
        if error != 0 { throw Failure(message: String(cString: bs_strerror(error))) }
        return scores
    }
}
