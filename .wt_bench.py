import io,time,numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from trainables.data import files, augment
from trainables.data.pictures import Pictures
from trainables.config import trial as c
import torch
torch.set_num_threads(1)
pics=[]
for photo in load_sample_images().images:
    im=Image.fromarray(photo).resize((500,375)); s=io.BytesIO(); im.save(s,"JPEG",quality=95); pics.append(s.getvalue())
def t(f,n=60):
    best=9
    for _ in range(5):
        b=time.perf_counter()
        for i in range(n): f(pics[i%2])
        best=min(best,(time.perf_counter()-b)/n)
    return best*1e3
print("centre 224", t(lambda p: files.decode(p,224,"")),"ms")
print("centre 224 of 256", t(lambda p: files.decode(p,224,"",256)),"ms")
print("whole 448", t(lambda p: files.squeeze(p,448,"")),"ms")
print("whole 336", t(lambda p: files.squeeze(p,336,"")),"ms")
v=c.Views(crop_scale=(0.08,1.0))
x=torch.rand(16,3,224,224); y=torch.rand(16,3,448,448)
P=Pictures(y,224,torch.full((16,),4/3))
def tv(f):
    best=9
    for _ in range(5):
        b=time.perf_counter(); f(); best=min(best,time.perf_counter()-b)
    return best/16*1e3
k=torch.arange(16)
print("two views 224", tv(lambda: augment.views(x,k,("full","full"),v,0,0)), "ms an image")
print("two views of whole", tv(lambda: augment.views(P,k,("full","full"),v,0,0)), "ms an image")
