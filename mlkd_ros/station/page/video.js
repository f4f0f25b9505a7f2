// SPDX-License-Identifier: Apache-2.0
// Pictures as they come, decoded: H.264 with WebCodecs, or JPEG. In order, and each acknowledged.

export const canH264 = async () => {
  if (!("VideoDecoder" in window)) return false;
  try {
    return (await VideoDecoder.isConfigSupported({ codec: "avc1.42E01F", optimizeForLatency: true })).supported;
  } catch { return false; }
};

export class Video {
  // done(picture): {number, stamp, size, image_size, age, sent, statuses, source, close()};
  // failed(): a picture could not be decoded, and a key picture is needed.
  constructor(done, failed) {
    this.done = done;
    this.failed = failed;
    this.decoder = null;
    this.codec = "";
    this.headers = new Map(); // of pictures in the decoder, by number
    this.newest = 0;
    this.waitForKey = true;
  }

  reset() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.headers.clear();
    this.newest = 0;
    this.waitForKey = true;
  }

  async take(buffer) {
    const length = new DataView(buffer).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const data = new Uint8Array(buffer, 4 + length);
    if (header.codec === "jpeg") await this.jpeg(header, data);
    else this.h264(header, data);
  }

  async jpeg(header, data) {
    let source;
    try {
      source = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
    } catch { this.finish(header, null); return; }
    this.finish(header, source);
  }

  h264(header, data) {
    if (this.codec !== header.codec || !this.decoder || this.decoder.state === "closed") this.start(header.codec);
    if (this.waitForKey && !header.key) { this.failed(); this.finish(header, null); return; }
    this.waitForKey = false;
    this.headers.set(header.number, header);
    try {
      this.decoder.decode(new EncodedVideoChunk({ type: header.key ? "key" : "delta", timestamp: header.number, data }));
    } catch { this.broken(); }
  }

  start(codec) {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.codec = codec;
    this.waitForKey = true;
    this.decoder = new VideoDecoder({
      output: (frame) => {
        const header = this.headers.get(frame.timestamp);
        this.headers.delete(frame.timestamp);
        if (header) this.finish(header, frame); else frame.close();
      },
      error: () => this.broken(),
    });
    this.decoder.configure({ codec, optimizeForLatency: true });
  }

  broken() {
    for (const header of [...this.headers.values()]) this.finish(header, null);
    this.reset();
    this.failed();
  }

  finish(header, source) {
    // One that was overtaken is of no use.
    if (source && header.number < this.newest) { source.close(); source = null; }
    if (source) this.newest = header.number;
    this.done({ ...header, source, close: () => source?.close() });
  }
}
